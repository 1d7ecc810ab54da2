"""Apache Kafka as jars: fetched once from Maven Central into the user's cache, and from then on found there.

There is no package of Kafka in Debian or on PyPI; Maven puts together what the broker needs. `python -m saga_choreo.testing.kafka_jars`
fetches ahead of time and prints the folder. Several processes may ask at once: one fetches, the others wait for it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from saga_choreo.errors import ConfigurationError

__all__ = ["KAFKA_VERSION", "find_java", "find_jars"]

KAFKA_VERSION = os.environ.get("SAGA_KAFKA_VERSION", "4.1.1")
_JAVA_MIN = 17
_FETCH_S = 300.0
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
# Kafka's own pom names no SLF4J backend; slf4j-impl is the one for SLF4J 1.7, which Kafka 4 uses. Without it nothing is logged.
_POM = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>saga.choreo</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.24.3</version></dependency>
  </dependencies>
</project>
"""


def find_java() -> Path:
    """A Java that Kafka 4 runs on: that of JAVA_HOME, or on PATH. Raises ConfigurationError when there is none."""
    home = os.environ.get("JAVA_HOME", "")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not found or not Path(found).exists():
        raise ConfigurationError(
            "no Java was found for Kafka, neither in JAVA_HOME nor on PATH; on Debian and Ubuntu run: apt install default-jre-headless"
        )
    said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr  # noqa: S603
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version.group(1)) < _JAVA_MIN:
        raise ConfigurationError(
            f"{found!r} is not Java {_JAVA_MIN} or newer, which Kafka 4 needs; install one, or name it in JAVA_HOME"
        )
    return Path(found)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "saga-choreo"


def find_jars() -> Path:
    """The folder of the jars: SAGA_KAFKA_JARS, or the cache, filled at the first call. Raises ConfigurationError."""
    given = os.environ.get("SAGA_KAFKA_JARS", "")
    folder = Path(given) if given else _cache() / f"kafka-{KAFKA_VERSION}"
    if any(folder.glob("kafka_2.13-*.jar")):
        return folder
    if given:
        raise ConfigurationError(f"{given!r} (SAGA_KAFKA_JARS) holds no 'kafka_2.13-*.jar'; name the folder 'libs' of a Kafka")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    """Under another name first: a folder that is there is whole."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ConfigurationError(
            f"the jars of Kafka are not in {str(folder)!r} and there is no 'mvn' to fetch them with; "
            "on Debian and Ubuntu run: apt install maven, or name a folder of jars in SAGA_KAFKA_JARS"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as temporary:
        pom, jars = Path(temporary) / "pom.xml", Path(temporary) / "jars"
        pom.write_text(_POM.format(kafka=KAFKA_VERSION))
        command = [maven, "-B", "-q", "-f", str(pom), _PLUGIN, "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)  # noqa: S603
        except subprocess.TimeoutExpired as exc:
            raise ConfigurationError(f"Maven did not fetch Kafka {KAFKA_VERSION} within {_FETCH_S:.0f} s; try again") from exc
        if made.returncode != 0 or not any(jars.glob("kafka_2.13-*.jar")):
            raise ConfigurationError(
                f"Maven could not fetch Kafka {KAFKA_VERSION}; is Maven Central reachable? It says:\n{(made.stdout + made.stderr)[-1500:]}"
            )
        jars.rename(folder)


if __name__ == "__main__":
    print(find_java())
    print(find_jars())
