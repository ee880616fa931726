-- Replaces the remaining time of a lease and the description of its holder.
--
-- KEYS  1 the lock, and for a time to live below a second: 2 its fence, 3 its queue, 4 the
--       heartbeats of the queue's processes
-- ARGV  1 owner token, 2 holder description, 3 time to live in ms,
--       4 server time in µs from which on the call must do nothing, 5 sequence of the call
--
-- server time, for the time that was asked for
-- {'extended', remaining ms, server time}
-- 0 if it is lost
-- {'stale', server time}

local lock, token = KEYS[1], ARGV[1]

local record = redis.call('GET', lock)
if not record or string.sub(record, 1, 32) ~= token then
  return 0
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now >= tonumber(ARGV[4]) then
  return {'stale', now}
end

local sequence, process = string.match(record, '^(%d+)(@?%x*) ', 34)
if not sequence then
  -- Handed to a waiter that has not claimed it: it holds no lease.
  return 0
end
if tonumber(ARGV[5]) <= tonumber(sequence) then
  -- Overtaken on its way by a later call of the same lease.
  return {'extended', redis.call('PTTL', lock), now}
end

-- In this order: a server that is full refuses a SET, unless the script has written already.
redis.call('PEXPIRE', lock, ARGV[3])
redis.call('SET', lock, string.sub(record, 1, 33) .. ARGV[5] .. process .. ' ' .. ARGV[2], 'KEEPTTL')
if not KEYS[2] or string.sub(record, 33, 33) ~= '+' then
  return now
end

local fence = KEYS[2]
-- include fence.lua
-- include queue.lua

-- The next waiter was told a later end.
notify_end(tonumber(ARGV[3]))
return now
