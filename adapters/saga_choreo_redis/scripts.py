"""The Lua that writes: a commit and a few small changes, each one script, so that each happens whole or not at all.

A commit is data, not code: first what must hold (fields and their values), then what to do. Nothing is written before all of it has
been found to hold, and what is written afterwards cannot fail: Redis refuses a script before its first write when memory is full, and
appends the effects of one script to its file as one block.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = ["ADVANCE", "COMMIT", "DROP_LETTERS", "FORGET", "MARK", "MOVE_LETTERS", "TRY_LETTERS", "Script"]


class Script:
    """A script and the name the server knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


# ARGV: number of checks, then for each: key, field, value ('' for none). Then operations: a letter and its arguments.
# Keys are numbers into KEYS. Returns 0, or the number of the check that failed.
#   P key saga-field-values: a record   (saga hash, untold index, member, place, version, announced, changed_ms, packed)
#   C: a command                        (name, key, count, arguments)
#   U: give up a lock if it is held     (key, name, saga)
#   N: keep a value under a new number  (key, packed, count, then for each index: key, score or '' for the number itself)
COMMIT = Script(
    """
local at = 2
for n = 1, tonumber(ARGV[1]) do
  local found = redis.call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 1]) or ''
  if found ~= ARGV[at + 2] then return n end
  at = at + 3
end
while ARGV[at] do
  local what = ARGV[at]
  if what == 'P' then
    local key, index, member, place = KEYS[tonumber(ARGV[at + 1])], KEYS[tonumber(ARGV[at + 2])], ARGV[at + 3], ARGV[at + 4]
    local version, announced = ARGV[at + 5], ARGV[at + 6]
    local known = redis.call('HGET', key, 'a' .. place)
    if known and tonumber(known) > tonumber(announced) then announced = known end
    redis.call('HSET', key, 'r' .. place, ARGV[at + 8], 'v' .. place, version, 'a' .. place, announced)
    if tonumber(announced) < tonumber(version) then
      redis.call('ZADD', index, ARGV[at + 7], member)
    else
      redis.call('ZREM', index, member)
    end
    at = at + 9
  elseif what == 'C' then
    local count = tonumber(ARGV[at + 3])
    local words = {}
    for n = 1, count do words[n] = ARGV[at + 3 + n] end
    redis.call(ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])], unpack(words))
    at = at + 4 + count
  elseif what == 'U' then
    local key = KEYS[tonumber(ARGV[at + 1])]
    if redis.call('HGET', key, ARGV[at + 2]) == ARGV[at + 3] then redis.call('HDEL', key, ARGV[at + 2]) end
    at = at + 4
  else
    local number, count = redis.call('HINCRBY', KEYS[1], 'number', 1), tonumber(ARGV[at + 3])
    redis.call('HSET', KEYS[tonumber(ARGV[at + 1])], number, ARGV[at + 2])
    for n = 1, count do
      local score = ARGV[at + 3 + 2 * n]
      if score == '' then score = number end
      redis.call('ZADD', KEYS[tonumber(ARGV[at + 2 + 2 * n])], score, number)
    end
    at = at + 4 + 2 * count
  end
end
return 0
"""
)

# KEYS: pairs of a saga's hash and the index its record is in. ARGV: for each pair: member, place, version to mark.
MARK = Script(
    """
for n = 1, #KEYS / 2 do
  local key, member, place, mark = KEYS[2 * n - 1], ARGV[3 * n - 2], ARGV[3 * n - 1], tonumber(ARGV[3 * n])
  local version = tonumber(redis.call('HGET', key, 'v' .. place) or '')
  if version then
    local known = tonumber(redis.call('HGET', key, 'a' .. place) or '0')
    if mark > version then mark = version end
    if known < mark then
      redis.call('HSET', key, 'a' .. place, mark)
      if mark == version then redis.call('ZREM', KEYS[2 * n], member) end
    end
  end
end
return 0
"""
)

# One ended record, if it still is one and all it says is announced. KEYS: ended, saga hash, due, sagas, sagas of its choreography.
# ARGV: member, place, saga id. Returns 1 if it is gone.
FORGET = Script(
    """
local place = ARGV[2]
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local version, announced = redis.call('HGET', KEYS[2], 'v' .. place), redis.call('HGET', KEYS[2], 'a' .. place)
if version and tonumber(announced or '0') < tonumber(version) then return 0 end
redis.call('HDEL', KEYS[2], 'r' .. place, 'v' .. place, 'a' .. place)
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('HLEN', KEYS[2]) <= 1 then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[4], ARGV[3])
  redis.call('ZREM', KEYS[5], ARGV[3])
end
return 1
"""
)

# In the scripts on letters, KEYS are three hashes (quarantine, moved, tried) and then, for each service, its indexes as `letter_block` lists
# them; a letter is its number and at which of KEYS the indexes of its service begin.
_INDEX_OF_STATE = "local state = {open = 3, archived = 4, resolved = 5}\n"

# ARGV: from state, to state, what is said of it; then letters, each with its score in the index by time ('' for none). Returns how many
# were in the first state.
MOVE_LETTERS = Script(
    _INDEX_OF_STATE
    + """
local of, to, moved = state[ARGV[1]], state[ARGV[2]], 0
if not of or not to then return 0 end
for at = 4, #ARGV, 3 do
  local number, base, fades = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  if redis.call('ZSCORE', KEYS[base + of], number) then
    redis.call('ZREM', KEYS[base + of], number)
    redis.call('ZADD', KEYS[base + to], number, number)
    redis.call('HSET', KEYS[2], number, ARGV[3])
    if fades == '' then redis.call('ZREM', KEYS[base + 2], number) else redis.call('ZADD', KEYS[base + 2], fades, number) end
    moved = moved + 1
  end
end
return moved
"""
)

# ARGV: a state, or '' and the time before which letters may be forgotten; then letters. Returns how many are gone.
DROP_LETTERS = Script(
    _INDEX_OF_STATE
    + """
local of, before, gone = state[ARGV[1]] or 2, tonumber(ARGV[2]), 0
if ARGV[1] ~= '' and not state[ARGV[1]] then return 0 end
for at = 3, #ARGV, 2 do
  local number, base = ARGV[at], tonumber(ARGV[at + 1])
  local score = redis.call('ZSCORE', KEYS[base + of], number)
  if score and (not before or tonumber(score) < before) then
    for n = 1, 3 do redis.call('HDEL', KEYS[n], number) end
    for n = 0, 5 do redis.call('ZREM', KEYS[base + n], number) end
    gone = gone + 1
  end
end
return gone
"""
)

# KEYS: quarantine, tried. ARGV: pairs of a letter's number and what its last try has shown, kept after how many tries there were.
TRY_LETTERS = Script(
    """
for at = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1 then
    local times = tonumber(string.match(redis.call('HGET', KEYS[2], ARGV[at]) or '', '^%d+') or '0') + 1
    redis.call('HSET', KEYS[2], ARGV[at], string.format('%d', times) .. ' ' .. ARGV[at + 1])
  end
end
return 0
"""
)

# Where the store's history is. ARGV: field of the position, what it has to be above, field and text of a note. Returns the position.
ADVANCE = Script(
    """
local now = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local wanted = tonumber(ARGV[2])
if wanted > now then now = wanted end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + 1))
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], ARGV[3], ARGV[4]) end
return now + 1
"""
)
