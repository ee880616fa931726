-- Replaces the remaining time of a lease and the description of its holder.
--
-- KEYS  1 the lock, and for a time to live below a second: 2 its queue, 3 when the queue's processes were last seen
-- ARGV  1 owner token, 2 holder description, 3 time to live in ms,
--       4 server time in µs from which on the call must do nothing, 5 sequence of the call
--
-- {'extended', remaining ms, server time}
-- {'lost'}
-- {'stale', server time}

local lock, queue, seen = unpack(KEYS)
local token, holder, ttl, not_after, sequence = unpack(ARGV)

local record = redis.call('GET', lock)
if not record or string.sub(record, 1, 32) ~= token then
  return {'lost'}
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now >= tonumber(not_after) then
  return {'stale', now}
end

local digits, seen_sequence = string.match(record, '^%S+ (%d+) (%d+) ')
if not digits then
  -- Handed to a waiter that has not claimed it: it holds no lease.
  return {'lost'}
end
if tonumber(sequence) <= tonumber(seen_sequence) then
  -- Overtaken on its way by a later call of the same lease.
  return {'extended', redis.call('PTTL', lock), now}
end

-- In this order: a server that is full refuses a SET, unless the script has written already.
redis.call('PEXPIRE', lock, ttl)
redis.call('SET', lock, token .. ' ' .. digits .. ' ' .. sequence .. ' ' .. holder, 'KEEPTTL')
if not queue or redis.call('EXISTS', queue) == 0 then
  return {'extended', tonumber(ttl), now}
end

-- include queue.lua

-- The next waiter was told a later end.
tell_end(tonumber(ttl))
return {'extended', tonumber(ttl), now}
