"""A real Apache Kafka for tests and examples: one node that is broker and controller (KRaft), on free loopback ports.

It takes about two seconds to start, so tests share one and keep to a prefix of their own. Written records are in the page cache when
they are confirmed: they survive the end of the process, kill -9 included, but not that of the machine.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.testing.kafka_jars import find_jars, find_java
from saga_choreo.testing.servers import free_port

__all__ = ["KafkaServer"]

_PR_SET_PDEATHSIG = 1
_READY_S = 90.0
_STOP_S = 20.0
_POLL_S = 0.05
_CLUSTER = "4L6g3nShT-eMCtK--X86sw"
_LOGGING = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INNER",
    # One node: internal topics cannot have three replicas, the default, or groups and producers never start.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # After a kill the controller waits that long for the dead broker before it takes the new one; on a busy machine less puts out a living one.
    "broker.session.timeout.ms": "2500",
    "broker.heartbeat.interval.ms": "200",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "auto.create.topics.enable": "false",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.cleaner.backoff.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
    "log.retention.check.interval.ms": "1000",
    "log.index.size.max.bytes": "65536",
}
# Metadata, version 1, of no topics: answered with the brokers that are in service.
_ASK = struct.pack(">ihhihi", 14, 3, 1, 7, -1, 0)


def _die_with_parent() -> None:  # pragma: no cover  (runs in the child, between fork and exec)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class KafkaServer:
    """The same ports and data directory are used at every start. The calls block; call them from the main thread.

    `protocol` is what clients speak on `port` (PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL; the listener is called CLIENTS);
    `inner_port` is always plain. `settings` go into server.properties at every start, `scram` are users and their passwords.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        port: int = 0,
        protocol: str = "PLAINTEXT",
        settings: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = Path(data_dir)
        self.port = port or free_port()
        self.inner_port = free_port()
        self._controller_port = free_port()
        self._protocol = protocol
        self.settings = dict(settings or {})
        self._scram = dict(scram or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        return self.data_dir / "kafka.log"

    @property
    def records(self) -> Path:
        """Where the server keeps its topics."""
        return self.data_dir / "records"

    def start(self) -> Self:
        """Start (again), and return when the server takes requests. Raises BrokerUnavailable with the log's end, and
        ConfigurationError when there is no Java or no Kafka to run."""
        if self._process is not None and self._process.poll() is None:
            return self
        self._prepare()
        self._process = self._run("kafka.Kafka", str(self._config))
        self._wait_until_ready(self._process)
        return self

    @property
    def _config(self) -> Path:
        return self.data_dir / "server.properties"

    def _prepare(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "log4j2.properties").write_text(_LOGGING)
        listeners = {"CLIENTS": self.port, "INNER": self.inner_port}
        shown = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
        settings = {
            **_SETTINGS,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"{shown},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": shown,
            "listener.security.protocol.map": f"CLIENTS:{self._protocol},INNER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.records),
            **self.settings,
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        if (self.records / "meta.properties").exists():
            return
        users = [f"SCRAM-SHA-512=[name={name},password={password}]" for name, password in self._scram.items()]
        more = [word for user in users for word in ("--add-scram", user)]
        made = self._run("kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER, "--config", str(self._config), *more)
        if made.wait(_READY_S) != 0:
            raise BrokerUnavailable(f"Kafka could not format {str(self.records)!r}; the end of its log says:\n{self._end_of_log()}")

    def _run(self, *program: str) -> subprocess.Popen[bytes]:
        java = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
        logging = f"-Dlog4j2.configurationFile=file:{self.data_dir / 'log4j2.properties'}"
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  (our own program and arguments)
                [str(find_java()), *java, logging, "-cp", f"{find_jars()}/*", *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                # Ctrl-C in a terminal is for whoever started the server, and has to stop it after its clients.
                process_group=0,
                # The parent's death signal follows the *thread* that forks, so a short-lived thread must not do this.
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return
            time.sleep(_POLL_S)
        self.kill()
        raise BrokerUnavailable(
            f"Kafka on port {self.port} did not come up; the end of {str(self.log)!r} says:\n{self._end_of_log()}"
        )

    def _answers(self) -> bool:
        """An open port is not enough: only a broker that its controller has let in is named in the answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.inner_port), timeout=1.0) as probe:
                probe.settimeout(2.0)
                probe.sendall(_ASK)
                answer = probe.recv(12, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0

    def _end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """Ask it to end, and wait; kill it when it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: clients see their connections break, and what was confirmed is still there at the next start."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers. Undone by `resume`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        if how is not signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
