"""The queue's atomic steps, as Lua on RQ's own data structures.

Each script gets RQ's key prefix, the queue's name and then its own arguments, and takes the time from Redis, so hosts
whose clocks differ agree. Beside RQ's keys there are three of ours for each queue:

    …:reserved:<queue>   zset   a submitter's place between admission and enqueue; score = when it lapses
    …:paused:<queue>     text   jobs are accepted but not handed out
    …:stops:<queue>      zset   tasks whose run shall end; score = when that was asked
"""

from rq.defaults import RQ_KEY_PREFIX

_PRELUDE = """
local p, q = ARGV[1], ARGV[2]
local queued, scheduled, wip = p .. ':queue:' .. q, p .. ':scheduled:' .. q, p .. ':wip:' .. q
local failed, finished = p .. ':failed:' .. q, p .. ':finished:' .. q
local reserved, paused, stops = p .. ':reserved:' .. q, p .. ':paused:' .. q, p .. ':stops:' .. q
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function job_key(id) return p .. ':job:' .. id end
local function size() return redis.call('LLEN', queued) + redis.call('ZCARD', scheduled) end
local function forget_run(worker, id, execution)
  redis.call('DEL', p .. ':execution:' .. id .. ':' .. execution)
  redis.call('ZREM', p .. ':executions:' .. id, execution)
  local runs = p .. ':worker:' .. worker .. ':executions'
  redis.call('SREM', runs, id .. ':' .. execution)
  if redis.call('SCARD', runs) == 0 and redis.call('EXISTS', p .. ':worker:' .. worker) == 1 then
    redis.call('HSET', p .. ':worker:' .. worker, 'state', 'idle')
  end
end
"""

# A place in the queue, within the bound. Arguments: job id, the bound, seconds until an unused place lapses.
# Answers {1 or 0, the queue's size}.
RESERVE = (
    _PRELUDE
    + """
redis.call('ZREMRANGEBYSCORE', reserved, '-inf', now)
local id, bound, ttl = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if not redis.call('ZSCORE', reserved, id) then
  if size() + redis.call('ZCARD', reserved) >= bound then return {0, size()} end
  redis.call('ZADD', reserved, now + ttl, id)
end
return {1, size()}
"""
)

# Saves the job and queues it; a reserved place is used up. Arguments: job id, the bound (-1: none), then the job's
# fields and values. Answers 1, or 0 where the place had lapsed and the queue is full. Repeated, it does nothing.
ENQUEUE = (
    _PRELUDE
    + """
local id, bound = ARGV[3], tonumber(ARGV[4])
local had_place = redis.call('ZREM', reserved, id) == 1
local status = redis.call('HGET', job_key(id), 'status')
if (status == 'queued' and redis.call('LPOS', queued, id))
  or (status == 'scheduled' and redis.call('ZSCORE', scheduled, id))
  or (status == 'started' and redis.call('EXISTS', p .. ':executions:' .. id) == 1) then return 1 end
if not had_place and bound >= 0 and size() + redis.call('ZCARD', reserved) >= bound then return 0 end
redis.call('DEL', job_key(id))
redis.call('HSET', job_key(id), unpack(ARGV, 5))
redis.call('SADD', p .. ':queues', queued)
redis.call('RPUSH', queued, id)
return 1
"""
)

# Takes waiting jobs out. Arguments: job ids. Answers how many were waiting.
REMOVE = (
    _PRELUDE
    + """
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
"""
)

# Hands jobs to a worker: from the queue to `wip` with a lease, in one step, so that no job is ever nowhere.
# Arguments: worker name, lease seconds, the time as RQ writes it, then one new execution id for each job wanted.
# Answers {paused?, {id, execution id, data, timeout, attempt, outcome}…}; data is nil where the job's hash is gone.
CLAIM = (
    _PRELUDE
    + """
local worker, lease, moment = ARGV[3], tonumber(ARGV[4]), ARGV[5]
if redis.call('EXISTS', paused, p .. ':suspended') > 0 then return {1} end
local answer, next_execution = {0}, 6
while next_execution <= #ARGV do
  local id = redis.call('LPOP', queued)
  if not id then break end
  local key = job_key(id)
  local status = redis.call('HGET', key, 'status')
  if status == 'queued' or not status then
    local execution = ARGV[next_execution]
    next_execution = next_execution + 1
    local job = redis.call('HMGET', key, 'data', 'timeout', 'attempt', 'outcome')
    redis.call('HSET', key, 'status', 'started', 'worker_name', worker, 'started_at', moment, 'last_heartbeat', moment)
    redis.call('PERSIST', key)
    local run = p .. ':execution:' .. id .. ':' .. execution
    redis.call('HSET', run, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
      'worker_name', worker)
    redis.call('EXPIRE', run, 86400)
    redis.call('ZADD', p .. ':executions:' .. id, now + 86400, execution)
    redis.call('EXPIRE', p .. ':executions:' .. id, 86400)
    redis.call('ZADD', wip, now + lease, id .. ':' .. execution)
    redis.call('SADD', p .. ':worker:' .. worker .. ':executions', id .. ':' .. execution)
    table.insert(answer, {id, execution, job[1], job[2], job[3], job[4]})
  end
end
if #answer > 1 and redis.call('EXISTS', p .. ':worker:' .. worker) == 1 then
  redis.call('HSET', p .. ':worker:' .. worker, 'state', 'busy')
end
return answer
"""
)

# Ends a run. Only the holder of the lease may; answers 0 to anyone else. Arguments: worker name, job id, execution id,
# the time as RQ writes it, what becomes of the job, seconds that is kept for, seconds the run took, exception text.
#   finished | failed   into that registry            queued   back to the queue's front
#   scheduled           again after a wait that grows with each time, `failed` when it has gone on for half a day
END = (
    _PRELUDE
    + """
local worker, id, execution, moment = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local becomes, ttl, seconds, exception = ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]
if redis.call('ZREM', wip, id .. ':' .. execution) == 0 then return 0 end
forget_run(worker, id, execution)
local key = job_key(id)
if becomes == 'scheduled' then
  local times = redis.call('HINCRBY', key, 'record_retries', 1)
  if times > 1440 then becomes = 'failed'
  else redis.call('ZADD', scheduled, now + math.min(30, 2 ^ (times - 1)), id) end
elseif becomes == 'queued' then
  redis.call('LPUSH', queued, id)
end
redis.call('HSET', key, 'status', becomes, 'ended_at', moment)
local worker_key = p .. ':worker:' .. worker
if becomes == 'finished' or becomes == 'failed' then
  if becomes == 'failed' then redis.call('HSET', key, 'exc_info', exception) end
  redis.call('EXPIRE', key, ttl)
  redis.call('ZADD', becomes == 'failed' and failed or finished, now + ttl, id)
  if redis.call('EXISTS', worker_key) == 1 then
    redis.call('HINCRBY', worker_key, becomes == 'failed' and 'failed_job_count' or 'successful_job_count', 1)
    redis.call('HINCRBYFLOAT', worker_key, 'total_working_time', seconds)
  end
end
return 1
"""
)

# Extends the leases of a worker's runs. Arguments: worker name, lease seconds, the worker's time to live in seconds,
# the time as RQ writes it, the worker's state, then `job:execution` of each run. Answers 0 where Redis no longer knows
# the worker.
BEAT = (
    _PRELUDE
    + """
local worker, lease, ttl, moment = p .. ':worker:' .. ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
for i = 8, #ARGV do redis.call('ZADD', wip, 'XX', now + lease, ARGV[i]) end
if redis.call('EXISTS', worker) == 0 then return 0 end
redis.call('HSET', worker, 'last_heartbeat', moment, 'state', ARGV[7], 'beat_at', now)
redis.call('EXPIRE', worker, ttl)
redis.call('EXPIRE', worker .. ':executions', ttl)
return 1
"""
)

# What any worker does once a second for all: due jobs go to the queue, and so do the jobs of workers that are gone,
# to its front, with `attempt` one higher. Arguments: lease seconds, the attempt that is not given any more.
# After a silence (nobody ticked: Redis or all workers were away) and after a step of the clock, leases get a second
# chance first, because their holders may be alive and well. Answers {due, found again}.
TICK = (
    _PRELUDE
    + """
local lease, last_attempt = tonumber(ARGV[3]), tonumber(ARGV[4])
local last = tonumber(redis.call('HGET', p .. ':tick:' .. q, 'at') or 0)
redis.call('HSET', p .. ':tick:' .. q, 'at', now)
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, 1000)
for i = #due, 1, -1 do
  redis.call('ZREM', scheduled, due[i])
  redis.call('HSET', job_key(due[i]), 'status', 'queued')
  redis.call('LPUSH', queued, due[i])
end
if now - last > lease / 2 or now < last then
  for _, run in ipairs(redis.call('ZRANGE', wip, 0, -1)) do redis.call('ZADD', wip, now + lease, run) end
  return {#due, 0}
end
local found = redis.call('ZRANGEBYSCORE', wip, '-inf', now, 'LIMIT', 0, 1000)
for _, run in ipairs(found) do
  local id, execution = string.match(run, '^(.*):([^:]*)$')
  redis.call('ZREM', wip, run)
  local key = job_key(id)
  forget_run(redis.call('HGET', key, 'worker_name') or '', id, execution)
  if redis.call('HGET', key, 'status') == 'started' then
    if redis.call('HINCRBY', key, 'attempt', 1) > last_attempt then
      redis.call('HSET', key, 'status', 'failed')
      redis.call('EXPIRE', key, 43200)
      redis.call('ZADD', failed, now + 43200, id)
    else
      redis.call('HSET', key, 'status', 'queued')
      redis.call('LPUSH', queued, id)
    end
  end
end
return {#due, #found}
"""
)

# Every job that is waiting, about to be queued or running. Answers {waiting ids, running ids}.
UNFINISHED = (
    _PRELUDE
    + """
local waiting = redis.call('LRANGE', queued, 0, -1)
for _, key in ipairs({scheduled, reserved}) do
  for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do table.insert(waiting, id) end
end
local running = {}
for _, run in ipairs(redis.call('ZRANGE', wip, 0, -1)) do table.insert(running, string.match(run, '^(.*):[^:]*$')) end
return {waiting, running}
"""
)

# The queue and its workers at one moment. Answers {{queued, scheduled, running, archived}, how it was paused or false,
# the time, {worker's name, host, pid, slots, running, time of its last beat or false}…}.
OVERVIEW = (
    _PRELUDE
    + """
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
"""
)

# Asks whoever runs the task to end it. Arguments: task id.
STOP = (
    _PRELUDE
    + """
redis.call('ZADD', stops, now, ARGV[3])
redis.call('ZREMRANGEBYSCORE', stops, '-inf', now - 3600)
redis.call('EXPIRE', stops, 3600)
return 1
"""
)

# The tasks asked to end since a time, and the time now. Arguments: the time of the last look (0: none).
# Looks five seconds further back than asked, for a replica whose clock is behind.
STOPS = (
    _PRELUDE
    + """
return {tostring(now), redis.call('ZRANGEBYSCORE', stops, tonumber(ARGV[3]) - 5, '+inf')}
"""
)


def arguments(queue_name: str, *args: object) -> list[object]:
    """A script's ARGV."""
    return [RQ_KEY_PREFIX, queue_name, *args]


def queue_key(queue_name: str) -> str:
    """The one key by which a script is routed; the others share its hash slot."""
    return f"{RQ_KEY_PREFIX}:queue:{queue_name}"
