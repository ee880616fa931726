-- Frees a key, if the owner holds it, and hands it to the first waiter. An owner that waited is taken off the queue.
--
-- KEYS  1 the lock, 2 its fence, 3 its queue, 4 when the queue's processes were last seen
-- ARGV  1 owner token, 2 the process in which the owner waits, if it does
--
-- 1 if it was the owner's, else 0

local lock, process = KEYS[1], ARGV[2]

local record = redis.call('GET', lock)
local ours = record and string.sub(record, 1, 32) == ARGV[1]
if ours then
  -- First: a server that is full refuses other writes, unless the script has written already.
  redis.call('DEL', lock)
end
local result = ours and 1 or 0
if not process and (not ours or string.sub(record, 33, 33) == ' ') then
  return result
end
if redis.call('EXISTS', KEYS[3]) == 0 then
  return result
end

local fence = KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- include fence.lua
-- include queue.lua

local function hand_on()
  if process then
    -- In this order: it is allowed on a full server, and what follows it too.
    if leave(ARGV[1] .. process) then
      note_alive(process)
    end
  end
  if ours or not record then
    local first = first_alive()
    if first then
      hand_over(first)
    end
  end
end

local done, problem = pcall(hand_on)
if not done and not ours then
  error(problem)
end
-- Whatever stands where the queue should: the lock was the owner's, and is free.
return result
