-- Keeps a process's waiters of one key in the queue; sent about once a second. Hands the lock over
-- if it is free, and reports what the process may have missed.
--
-- KEYS  1 the lock, 2 its fence, 3 its queue, 4 the heartbeats of the queue's processes
-- ARGV  1 the process,
--       2 1 if the process that the record names is to be asked whether it has released the lock
--         already, else 0: an old copy of the data may have brought the record back,
--       3 owner token of its newest waiter in the queue, if it has one: an old copy of the queue
--         lacks the newest
--
-- {'heartbeat', owner token of its waiter that the lock was handed to or '',
--  remaining ms (-1 without end, -2 if it is free), 1 if one of its waiters is the next,
--  generation of the process or 0 if its waiters must queue again, server time}
--
-- The process is sent a ping as well, so that it knows whether it receives messages.

local lock, fence = KEYS[1], KEYS[2]
local process = ARGV[1]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- include fence.lua
-- include queue.lua

local flags = notify(process, 'ping') == 0 and '!' or ''
local record = redis.call('GET', lock)
-- Without a queue nothing is kept, and its waiters, if there are any, must queue again.
local generation = is_waited_for() and note_alive(process, nil, flags) or 0
if ARGV[3] and not redis.call('ZSCORE', queue, ARGV[3] .. process) then
  generation = 0
end
if not record then
  local _, is_foreign = hand_over()
  if is_foreign then
    -- Its waiters claim, and get the same error.
    return no_fence()
  end
  record = redis.call('GET', lock)
end
forget_the_dead()
if is_waited_for() then
  -- The marks may have been lost.
  mark_all()
end
local handed_token, handed_process = string.match(record or '', '^(%x+)%+@(%x+) ')
local next = next_waiter(handed_token, handed_process)
local is_next = next and string.sub(next, 33) == process
if is_next and ARGV[2] == '1' then
  local token, holding_process = string.match(record or '', '^(%x+)[ +]%d+@(%x+) ')
  if token then
    notify(holding_process, 'asked ' .. token .. ' ' .. lock)
  end
end
return {
  'heartbeat',
  handed_process == process and handed_token or '',
  redis.call('PTTL', lock),
  is_next and 1 or 0,
  generation,
  now,
}
