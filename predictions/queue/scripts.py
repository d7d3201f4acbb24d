"""The queue's atomic steps, as Lua on RQ's own data structures; a worker's own are in worker_scripts.py.

Each script gets RQ's key prefix, the queue's name and then its own arguments, and takes the time from Redis, so hosts
whose clocks differ agree. In addition to RQ's keys each queue has some of ours:

    …:reserved:<queue>   zset   a submitter's place between admission and enqueue; score = when it lapses
    …:paused:<queue>     text   jobs are accepted but not handed out
    …:closed:<queue>     text   nothing is accepted or handed out: the agent, and its Redis with it, is ending
    …:stops:<queue>      zset   tasks whose run shall end; score = time of the request
    …:held:<queue>       zset   tasks whose prediction some process waits for; score = when the hold lapses
    …:tick:<queue>       hash   `at`, when a worker last looked after the queue; gone where Redis was emptied
"""

from functools import cache
from typing import Any

from redis.commands.core import Script
from rq.defaults import RQ_KEY_PREFIX

from predictions.redis.connections import get_redis

_PRELUDE = """
local p, q = ARGV[1], ARGV[2]
local queued, scheduled, wip = p .. ':queue:' .. q, p .. ':scheduled:' .. q, p .. ':wip:' .. q
local failed, finished = p .. ':failed:' .. q, p .. ':finished:' .. q
local reserved, paused, stops = p .. ':reserved:' .. q, p .. ':paused:' .. q, p .. ':stops:' .. q
local held, closed = p .. ':held:' .. q, p .. ':closed:' .. q
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function job_key(id) return p .. ':job:' .. id end
local function forget_lapsed_places() redis.call('ZREMRANGEBYSCORE', reserved, '-inf', now) end
local function size() return redis.call('LLEN', queued) + redis.call('ZCARD', scheduled) end
"""


def with_prelude(body: str) -> str:
    """A script that begins with the keys and functions that all scripts share."""
    return _PRELUDE + body


# A place in the queue, within the bound. Arguments: job id, the bound, seconds until an unused place lapses.
# Answers {1 or 0, the queue's size}; {-1, 0} where the queue is closed.
RESERVE = with_prelude("""
if redis.call('EXISTS', closed) == 1 then return {-1, 0} end
forget_lapsed_places()
local id, bound, ttl = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if not redis.call('ZSCORE', reserved, id) then
  if size() + redis.call('ZCARD', reserved) >= bound then return {0, size()} end
  redis.call('ZADD', reserved, now + ttl, id)
end
return {1, size()}
""")

# Saves the job and queues it; a reserved place is used up. Arguments: job id, the bound (-1: none), then the job's
# fields and values. Returns 1, or 2 if Redis has or had the job already: a repeated call does nothing.
# Returns 0 where the place had lapsed and the queue is full, -1 where the queue is closed.
ENQUEUE = with_prelude("""
local id, bound = ARGV[3], tonumber(ARGV[4])
local had_place = redis.call('ZREM', reserved, id) == 1
forget_lapsed_places()
local status = redis.call('HGET', job_key(id), 'status')
if (status == 'queued' and redis.call('LPOS', queued, id))
  or (status == 'scheduled' and redis.call('ZSCORE', scheduled, id))
  or (status == 'started' and redis.call('EXISTS', p .. ':executions:' .. id) == 1)
  or status == 'finished' or status == 'failed' then return 2 end
if redis.call('EXISTS', closed) == 1 then return -1 end
if not had_place and bound >= 0 and size() + redis.call('ZCARD', reserved) >= bound then return 0 end
redis.call('DEL', job_key(id))
redis.call('HSET', job_key(id), unpack(ARGV, 5))
redis.call('SADD', p .. ':queues', queued)
redis.call('RPUSH', queued, id)
return 1
""")

# Takes waiting jobs out. Arguments: job ids. Answers how many were waiting.
REMOVE = with_prelude("""
local removed = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  redis.call('ZREM', reserved, id)
  if redis.call('LREM', queued, 0, id) + redis.call('ZREM', scheduled, id) > 0 then
    redis.call('DEL', job_key(id))
    removed = removed + 1
  end
end
return removed
""")

# Every task that is waiting, about to be queued or running, with a job or held by a caller who waits.
# Answers {waiting ids, running ids}.
UNFINISHED = with_prelude("""
forget_lapsed_places()
local waiting = redis.call('LRANGE', queued, 0, -1)
for _, key in ipairs({scheduled, reserved}) do
  for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do table.insert(waiting, id) end
end
local running = {}
for _, run in ipairs(redis.call('ZRANGE', wip, 0, -1)) do table.insert(running, string.match(run, '^(.*):[^:]*$')) end
redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
for _, id in ipairs(redis.call('ZRANGE', held, 0, -1)) do table.insert(running, id) end
return {waiting, running}
""")

# The queue and its workers at one moment. Answers {{queued, scheduled, running, archived}, how it was paused or false,
# the time, {worker's name, host, pid, slots, running, time of its last beat or false}…}.
OVERVIEW = with_prelude("""
local sizes = {redis.call('LLEN', queued), redis.call('ZCARD', scheduled), redis.call('ZCARD', wip),
  redis.call('ZCARD', failed)}
local answer = {sizes, redis.call('GET', paused), tostring(now)}
for _, key in ipairs(redis.call('SMEMBERS', p .. ':workers:' .. q)) do
  local told = redis.call('HMGET', key, 'hostname', 'pid', 'concurrency', 'beat_at', 'birth', 'death')
  if told[5] and not told[6] then
    local running = redis.call('SCARD', key .. ':executions')
    table.insert(answer, {string.sub(key, #p + 9), told[1], told[2], told[3], running, told[4]})
  end
end
return answer
""")

# Requests that the task's run ends. Arguments: task id. Redis keeps the request for a day, so that a clock that steps
# by an hour does not make it look old.
STOP = with_prelude("""
redis.call('ZADD', stops, now, ARGV[3])
redis.call('ZREMRANGEBYSCORE', stops, '-inf', now - 86400)
redis.call('EXPIRE', stops, 172800)
return 1
""")

# Each process with predictions in flight calls this twice a second. Arguments: the time of its last look (0: none), the
# seconds for which it holds tasks, how many tasks it releases, those, then the tasks whose hold it sets or renews.
# Returns the time now and the tasks to end: those requested since the last look, and any of the holds renewed here.
# Looks five seconds further back than asked, for a replica whose clock is behind; everywhere if the clock was set back.
LOOK = with_prelude("""
local since, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
if since > now then since = 0 end
local asked = redis.call('ZRANGEBYSCORE', stops, since - 5, '+inf')
local holds = 6 + tonumber(ARGV[5])
for i = 6, holds - 1 do redis.call('ZREM', held, ARGV[i]) end
for i = holds, #ARGV do
  redis.call('ZADD', held, now + ttl, ARGV[i])
  if redis.call('ZSCORE', stops, ARGV[i]) then table.insert(asked, ARGV[i]) end
end
redis.call('ZREMRANGEBYSCORE', held, '-inf', now - 86400)
redis.call('EXPIRE', held, 172800)
return {tostring(now), asked}
""")


def run_script(source: str, queue_name: str, *args: Any) -> Any:
    """Runs a script on a queue, by the script's hash once the server knows it. Raises redis.RedisError.

    The queue's key routes the script. The other keys share its hash slot.
    """
    keys = [f"{RQ_KEY_PREFIX}:queue:{queue_name}"]
    return _registered(source)(keys=keys, args=[RQ_KEY_PREFIX, queue_name, *args], client=get_redis())


@cache
def _registered(source: str) -> Script:
    return get_redis().register_script(source)
