"""A worker's atomic steps: claim, end, beat, restore, keep and tick, as Lua on RQ's own data structures.

A run's lease is its score in `wip`. The scores are FAR in the future, out of reach of RQ's own clean-up of that
registry: it is not atomic, uses the clock of the reading process (the admin's pages, `rq info`), and would give the
jobs of healthy workers away. Fields of ours in a job's hash:

    lost           the runs whose worker was lost, each followed by a blank
    handed_back    the runs that gave the job back, likewise
    losses         how many leases of the job have lapsed
    outcome        the outcome of its prediction, until the row has it
"""

from predictions.queue.scripts import with_prelude

FAR_SECONDS = 10_000_000_000

_FUNCTIONS = f"""
local far = {FAR_SECONDS}
local function worker_key(worker) return p .. ':worker:' .. worker end
local function set_state(worker, state)
  if redis.call('EXISTS', worker_key(worker)) == 1 then redis.call('HSET', worker_key(worker), 'state', state) end
end
local function begin_run(worker, id, execution, lease, moment)
  local key, run = job_key(id), p .. ':execution:' .. id .. ':' .. execution
  redis.call('HSET', key, 'status', 'started', 'worker_name', worker, 'started_at', moment, 'last_heartbeat', moment)
  redis.call('PERSIST', key)
  redis.call('HSET', run, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
    'worker_name', worker)
  redis.call('EXPIRE', run, 86400)
  redis.call('ZADD', p .. ':executions:' .. id, now + 86400, execution)
  redis.call('EXPIRE', p .. ':executions:' .. id, 86400)
  redis.call('ZADD', wip, far + now + lease, id .. ':' .. execution)
  redis.call('SADD', worker_key(worker) .. ':executions', id .. ':' .. execution)
end
local function forget_run(worker, id, execution)
  redis.call('DEL', p .. ':execution:' .. id .. ':' .. execution)
  redis.call('ZREM', p .. ':executions:' .. id, execution)
  redis.call('SREM', worker_key(worker) .. ':executions', id .. ':' .. execution)
  if redis.call('SCARD', worker_key(worker) .. ':executions') == 0 then set_state(worker, 'idle') end
end
local function append(id, field, execution)
  redis.call('HSET', job_key(id), field, (redis.call('HGET', job_key(id), field) or '') .. execution .. ' ')
end
"""


def _script(body: str) -> str:
    return with_prelude(_FUNCTIONS + body)


# Hands jobs to a worker: from the queue to `wip` with a lease, in one step, so that no job is ever nowhere.
# Arguments: worker name, lease seconds, the time as RQ writes it, then one new execution id for each job wanted.
# Answers {paused?, {id, execution id, {field, value, …}}…}; no fields where the job's hash is gone.
# Asked again with the same execution ids, because the answer was lost, it hands out the same jobs.
CLAIM = _script("""
local worker, lease, moment = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local last_claim = p .. ':claimed:' .. q .. ':' .. worker
local answer = {0}
if redis.call('GET', last_claim) == ARGV[6] then
  local asked = {}
  for i = 6, #ARGV do asked[ARGV[i]] = true end
  for _, run in ipairs(redis.call('SMEMBERS', worker_key(worker) .. ':executions')) do
    local id, execution = string.match(run, '^(.*):([^:]*)$')
    if asked[execution] then table.insert(answer, {id, execution, redis.call('HGETALL', job_key(id))}) end
  end
  return answer
end
if redis.call('EXISTS', paused, closed, p .. ':suspended') > 0 then return {1} end
local next_execution = 6
while next_execution <= #ARGV do
  local id = redis.call('LPOP', queued)
  if not id then break end
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'queued' or not status then
    local execution = ARGV[next_execution]
    next_execution = next_execution + 1
    local fields = redis.call('HGETALL', job_key(id))
    begin_run(worker, id, execution, lease, moment)
    table.insert(answer, {id, execution, fields})
  end
end
if #answer > 1 then
  redis.call('SET', last_claim, ARGV[6], 'EX', 3600)
  set_state(worker, 'busy')
end
return answer
""")

# Ends runs. Only the holder of a run's lease may. Arguments: worker name, the time as RQ writes it, then for each run
# its job id, execution id, what becomes of the job, seconds that is kept for, seconds the run took, exception text.
# Answers 1 for each that was ended, and 0 where another has the lease.
#   finished | failed   into that registry            queued   back to the queue's front
#   scheduled           again after a wait that grows with each time, `failed` when it has gone on for half a day
END = _script("""
local worker, moment = ARGV[3], ARGV[4]
local function end_run(id, execution, becomes, ttl, seconds, exception)
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
  if becomes == 'finished' or becomes == 'failed' then
    if becomes == 'failed' then redis.call('HSET', key, 'exc_info', exception) end
    redis.call('EXPIRE', key, ttl)
    redis.call('ZADD', becomes == 'failed' and failed or finished, now + ttl, id)
    if redis.call('EXISTS', worker_key(worker)) == 1 then
      redis.call('HINCRBY', worker_key(worker), becomes == 'failed' and 'failed_job_count' or 'successful_job_count', 1)
      redis.call('HINCRBYFLOAT', worker_key(worker), 'total_working_time', seconds)
    end
  else
    append(id, 'handed_back', execution)
  end
  return 1
end
local answer = {}
for i = 5, #ARGV, 6 do
  table.insert(answer, end_run(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5]))
end
return answer
""")

# Extends the leases of a worker's runs. Arguments: worker name, lease seconds, the worker's time to live in seconds,
# the time as RQ writes it, the worker's state, then `job:execution` of each run. Answers {0 where Redis no longer knows
# the worker, the runs whose job it knows nothing of}: they can be restored.
BEAT = _script("""
local worker, lease, ttl, moment = worker_key(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local forgotten = {}
for i = 8, #ARGV do
  if redis.call('ZSCORE', wip, ARGV[i]) then
    redis.call('ZADD', wip, 'XX', far + now + lease, ARGV[i])
  elseif redis.call('EXISTS', job_key(string.match(ARGV[i], '^(.*):[^:]*$'))) == 0 then
    table.insert(forgotten, ARGV[i])
  end
end
if redis.call('EXISTS', worker) == 0 then return {0, forgotten} end
redis.call('HSET', worker, 'last_heartbeat', moment, 'state', ARGV[7], 'beat_at', now)
redis.call('EXPIRE', worker, ttl)
redis.call('EXPIRE', worker .. ':executions', ttl)
return {1, forgotten}
""")

# Puts a run back that Redis knows nothing of, because it was emptied. Arguments: worker name, lease seconds, the time
# as RQ writes it, job id, execution id, then the job's fields and values. Answers 0 where there is such a job again.
RESTORE = _script("""
local id, execution = ARGV[6], ARGV[7]
if redis.call('EXISTS', job_key(id)) == 1 then return 0 end
redis.call('HSET', job_key(id), 'origin', q, unpack(ARGV, 8))
redis.call('SADD', p .. ':queues', queued)
begin_run(ARGV[3], id, execution, tonumber(ARGV[4]), ARGV[5])
return 1
""")

# Stores an outcome with its job. Only the holder of the lease may. Arguments: job id, execution id, text.
KEEP = _script("""
if not redis.call('ZSCORE', wip, ARGV[3] .. ':' .. ARGV[4]) then return 0 end
redis.call('HSET', job_key(ARGV[3]), 'outcome', ARGV[5])
return 1
""")

# Any worker does this once a second for all workers: due jobs go to the queue, and the jobs of lost workers go to its
# front. Arguments: lease seconds, how many lapsed leases a job may have. That limit is for runs that never begin: the
# task's row counts those that did.
# After a pause without ticks (Redis or all workers were away) and after a step of the clock, it renews the leases
# first, because their holders may be alive; if the clock was set back it moves the scheduled jobs with it.
# Returns {due, 1 where Redis knew nothing of the queue, the runs that were lost and whose jobs are queued again}.
TICK = _script("""
local lease, most_losses = tonumber(ARGV[3]), tonumber(ARGV[4])
local tick = p .. ':tick:' .. q
local last = tonumber(redis.call('HGET', tick, 'at') or 0)
redis.call('HSET', tick, 'at', now)
local is_new = last == 0 and 1 or 0
if now < last then
  for _, key in ipairs({scheduled, reserved}) do
    for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, now - last, id) end
  end
end
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, 1000)
for i = #due, 1, -1 do
  redis.call('ZREM', scheduled, due[i])
  redis.call('HSET', job_key(due[i]), 'status', 'queued')
  redis.call('LPUSH', queued, due[i])
end
if now - last > lease / 2 or now < last then
  for _, run in ipairs(redis.call('ZRANGE', wip, 0, -1)) do redis.call('ZADD', wip, far + now + lease, run) end
  for _, id in ipairs(redis.call('ZRANGE', held, 0, -1)) do redis.call('ZADD', held, now + lease, id) end
  return {#due, is_new, {}}
end
local queued_again = {}
local found = redis.call('ZRANGEBYSCORE', wip, '-inf', far + now, 'LIMIT', 0, 1000)
for _, run in ipairs(found) do
  local id, execution = string.match(run, '^(.*):([^:]*)$')
  redis.call('ZREM', wip, run)
  local key = job_key(id)
  forget_run(redis.call('HGET', key, 'worker_name') or '', id, execution)
  if redis.call('HGET', key, 'status') == 'started' then
    append(id, 'lost', execution)
    if redis.call('HINCRBY', key, 'losses', 1) > most_losses then
      redis.call('HSET', key, 'status', 'failed')
      redis.call('EXPIRE', key, 43200)
      redis.call('ZADD', failed, now + 43200, id)
    else
      redis.call('HSET', key, 'status', 'queued')
      redis.call('LPUSH', queued, id)
      table.insert(queued_again, run)
    end
  end
end
return {#due, is_new, queued_again}
""")
