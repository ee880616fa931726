-- Looks at a key for the process of one or more of its waiters, about once a second: says that the process is alive, hands the lock over if
-- it is free, and tells what the process may have missed.
--
-- KEYS  1 the lock, 2 its fence, 3 its queue, 4 when the queue's processes were last seen
-- ARGV  1 the process
--
-- {'looked', owner token of its waiter that the lock was handed to or '', remaining ms (-1 without end, -2 if it is free),
--  1 if one of its waiters is the next, generation of the process, server time}
--
-- The process gets a message of this as well, so that it hears whether it hears.

local lock, fence = KEYS[1], KEYS[2]
local process = ARGV[1]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- include fence.lua
-- include queue.lua

local record = redis.call('GET', lock)
-- Without a queue nothing is kept, and its waiters, if there are any, must queue again.
local generation = is_waited_for() and note_alive(process) or 0
if not record then
  local first = first_alive()
  if first then
    hand_over(first)
    record = redis.call('GET', lock)
    if not record then
      -- Its waiters shall claim, and be told the same.
      return no_fence()
    end
  end
end
forget_the_dead()
if is_waited_for() then
  -- Should they have been lost.
  mark_all()
end
local handed_token, handed_process = string.match(record or '', '^(%x+)%+@(%x+) ')
local next = first_alive(handed_token, handed_process)
tell(process, 'heard')
return {
  'looked',
  handed_process == process and handed_token or '',
  redis.call('PTTL', lock),
  next and string.sub(next, 33) == process and 1 or 0,
  generation,
  now,
}
