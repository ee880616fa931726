-- Claims a key for an owner.
--
-- KEYS  1 the lock, 2 its fence: the highest fencing token so far, 3 its queue, 4 when the queue's processes were last seen
-- ARGV  1 the record to write, '<owner token> 0 <holder>', 2 time to live in ms,
--       3 server time in µs from which on the claim must do nothing, 4 the process in which the owner waits, if a refusal shall queue it
--
-- fencing token, for a grant of the time that was asked for, if the token is the server's time
-- {'granted', fencing token, remaining ms, server time}
-- {'held', the record without its owner token, remaining ms or -1, server time, fencing token or 0}
-- {'queued', the same four, generation of the process, 1 if it is the first in the queue}
-- {'stale', server time}
--
-- A record is '<owner token> <sequence of the last extend> <holder>', or, until the waiter that the lock was handed to claims it,
-- '<owner token> @<process> <holder>'. Its fencing token is what the fence key holds, as nobody was granted the lock since. While somebody waits, the
-- first space is a plus and ' +' follows the fence's number: so whom it does not concern needs no look at the queue.

local lock, fence = KEYS[1], KEYS[2]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now >= tonumber(ARGV[3]) then
  return {'stale', now}
end

-- include fence.lua

local last = redis.call('GET', fence)
-- Not if somebody waits, or if it is no fence. From 2^53 on a Lua number loses the last digits, and tokens would repeat.
local number = not last and 0 or string.find(last, '^%d+$') and tonumber(last)
local set = number and number < 9007199254740991 and redis.pcall('SET', lock, ARGV[1], 'NX', 'PX', ARGV[2])
if set and set.ok then
  local token = draw(last and number, tonumber(ARGV[2]), '')
  if token == now then
    return token
  end
  if type(token) == 'number' then
    return {'granted', token, tonumber(ARGV[2]), now}
  end
  -- A number with zeros before it is none to Redis. A script that fails half-way is not rolled back.
  redis.call('DEL', lock)
  return string.find(token.err, 'integer') and no_fence() or token
end

local process = ARGV[4]
local record = redis.call('GET', lock)
local ours = record and string.sub(record, 1, 32) == string.sub(ARGV[1], 1, 32)

local function held(record)
  -- Not the token itself: whoever has it can release the lock. A foreign record may have any length.
  local token = string.match(redis.call('GET', fence) or '', '^%d+') or 0
  return {'held', string.sub(record, 34, 640), redis.call('PTTL', lock), now, tonumber(token)}
end

if record and not ours and not process then
  return held(record)
end

-- include queue.lua

local ttl = tonumber(ARGV[2])
local waiter = process and string.sub(ARGV[1], 1, 32) .. process
local holder = string.sub(ARGV[1], 36)

if not record then
  if set then
    return set -- the error
  end
  if not is_fence(last) then
    return no_fence()
  end
  if process then
    note_alive(process, holder)
  end
  local first = first_alive()
  if not first or first == waiter then
    local waited_for = leave(waiter or '')
    local token = draw(is_fence(last), ttl, mark(waited_for))
    redis.call('SET', lock, marked(ARGV[1], waited_for), 'PX', ttl)
    tell_end(ttl)
    return {'granted', token, ttl, now}
  end
  -- Nobody overtakes: the lock goes to whoever waits for it, now.
  hand_over(first)
  record = redis.call('GET', lock)
  if not process then
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
  answer[6] = note_alive(process, holder)
  answer[7] = redis.call('ZRANGE', queue, 0, 0)[1] == waiter and 1 or 0
  return answer
end

local waited_for = leave(waiter or '')
if string.sub(record, 34, 34) == '@' then
  -- The lock was handed to it.
  redis.call('SET', lock, marked(ARGV[1], waited_for), 'PX', ttl)
  if waited_for and process then
    is_alive(process, holder)
  end
else
  -- The same claim once more, since its answer was lost. It may only gain.
  ttl = math.max(redis.call('PTTL', lock), ttl)
  redis.call('PEXPIRE', lock, ttl)
end
local token = is_fence(last)
if not token or token == 0 then
  -- Lost under the lock, perhaps before a waiter marked it: nobody knows any more what it was.
  token = draw(nil, ttl, mark(waited_for))
elseif 2 * ttl > 604800000 then
  redis.call('PEXPIRE', fence, 2 * ttl)
end
tell_end(ttl)
return {'granted', token, ttl, now}
