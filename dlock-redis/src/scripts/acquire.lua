-- Claims a key for an owner.
--
-- KEYS  1 the lock, 2 its fence: the highest fencing token so far, 3 its queue, 4 when the queue's processes were last seen
-- ARGV  1 owner token, 2 holder description, 3 time to live in ms,
--       4 server time in µs from which on the claim must do nothing, 5 life of the fence in ms,
--       6 the process in which the owner waits, or '' if a refusal shall not queue it
--
-- {'granted', fencing token, remaining ms, server time}
-- {'held', what follows the owner token in the record, remaining ms or -1, server time}
-- {'queued', the same three, generation of the process, 1 if it is the first in the queue}
-- {'stale', server time}
--
-- A record is '<owner token> <fencing token> <sequence of the last extend> <holder>', or, until the waiter that the lock was handed to
-- claims it, '<owner token> <fencing token> @<process> <holder>'. Nothing is written before everything was looked at: a script that
-- fails half-way is not rolled back.

local lock, fence, queue, seen = unpack(KEYS)
local token, holder, ttl, not_after, fence_life, process = unpack(ARGV)

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now >= tonumber(not_after) then
  return {'stale', now}
end

-- include fence.lua

local function grant()
  local number, digits = next_fence()
  if not digits then
    return redis.error_reply('WRONGTYPE the fence key holds no number below 2^53 - 1')
  end
  redis.call('SET', fence, digits, 'PX', fence_life)
  redis.call('SET', lock, token .. ' ' .. digits .. ' 0 ' .. holder, 'PX', ttl)
  return {'granted', number, tonumber(ttl), now}
end

local function held(record)
  -- Not the token itself: whoever has it can release the lock. A foreign record may have any length.
  return {'held', string.sub(record, 34, 640), redis.call('PTTL', lock), now}
end

local record = redis.call('GET', lock)
local ours = record and string.sub(record, 1, 32) == token
if not record and redis.call('EXISTS', queue) == 0 then
  return grant()
end
if record and not ours and process == '' then
  return held(record)
end

-- include queue.lua

local waiter = token .. process
local generation = process ~= '' and note_alive(process, holder)

if not record then
  local first = first_alive()
  if first and first ~= waiter then
    -- Nobody overtakes: the lock goes to whoever waits for it, now.
    hand_over(first)
    record = redis.call('GET', lock)
  end
  if not record then
    local answer = grant()
    if answer[1] then
      leave(waiter)
      tell_end(tonumber(ttl))
    end
    return answer
  end
  if process == '' then
    return held(record)
  end
end

if not ours then
  if not redis.call('ZSCORE', queue, waiter) then
    if redis.call('ZCARD', queue) >= 10000 then
      return redis.error_reply('QUEUEFULL 10000 wait for this key already')
    end
    enter(waiter)
  end
  local answer = held(record)
  answer[1] = 'queued'
  answer[5] = generation
  answer[6] = redis.call('ZRANGE', queue, 0, 0)[1] == waiter and 1 or 0
  return answer
end

-- The claim of the waiter that the lock was handed to, or the same claim once more, since its answer was lost. It may only gain.
local digits, handed = string.match(record, '^%S+ (%d+) (@?)')
local left = redis.call('PTTL', lock)
if handed == '@' then
  redis.call('SET', lock, token .. ' ' .. digits .. ' 0 ' .. holder, 'PX', math.max(left, ttl))
  redis.call('PEXPIRE', fence, fence_life)
elseif left < tonumber(ttl) then
  redis.call('PEXPIRE', lock, ttl)
end
left = math.max(left, ttl)
if process ~= '' then
  leave(waiter)
  tell_end(left)
end
return {'granted', tonumber(digits), left, now}
