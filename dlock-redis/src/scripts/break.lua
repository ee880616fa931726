-- Frees a key whose holder has a fencing token, and hands it to the first waiter.
--
-- KEYS  1 the lock, 2 its fence, and, if the answer without them was 'marked', 3 its queue, 4 the
--       heartbeats of the queue's processes
-- ARGV  1 the fencing token, 2 the owner token, if nobody else's lock is to be freed
--
-- 1 if it was held under that token, else 0
-- {'marked'}: nothing was done, as somebody waits, and not all keys are named

local lock, fence = KEYS[1], KEYS[2]

-- Neither what was handed over and not claimed, nor what a foreign client wrote, has a token.
local record = redis.call('GET', lock)
if not record or not string.find(record, '^' .. string.rep('%x', 32) .. '[ +]%d') then
  return 0
end
if ARGV[2] and string.sub(record, 1, 32) ~= ARGV[2] then
  return 0
end
if string.match(redis.call('GET', fence) or '', '^%d+') ~= ARGV[1] then
  return 0
end
if not KEYS[3] then
  if string.sub(record, 33, 33) == '+' then
    return {'marked'}
  end
  return redis.call('DEL', lock)
end
redis.call('DEL', lock)

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- include fence.lua
-- include queue.lua

-- Whatever stands where the queue should: the lock is free.
pcall(function()
  if is_waited_for() and not hand_over() then
    leave('')
  end
end)
return 1
