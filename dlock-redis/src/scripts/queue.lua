-- The queue of a key, for the scripts that meet one. Expects lock, fence, now and draw.
--
-- queue  a sorted set of waiters, '<owner token><process>', in the order of their coming
-- seen   a hash, process -> '<generation> <server time in µs until which it counts as alive> <holder description>'
--
-- A lock is handed to a waiter in its absence, under a short lease, and its process is told. The waiter goes to the end of the queue, and leaves
-- it when it claims. Its process counts as dead until it calls again; the waiters of a dead process are taken off the queue when their
-- turn comes, and it begins a new generation if it was alive after all: its waiters see that they must queue again.

local queue, seen = KEYS[3], KEYS[4]

-- Longer than the time between two looks, so that a look finds it if the message was lost.
local HANDOVER_MS = 1200
local ALIVE_MICROS = 3000000
local KEPT_MS = 10000
-- How many waiters one call looks at.
local LOOKED_AT = 64

local function is_waited_for()
  return redis.call('EXISTS', queue) == 1
end

-- The number of a fence, marked or not; nil if it is no fence of ours, or none.
local function is_fence(value)
  local number = tonumber(string.match(value or '', '^(%d+)$') or string.match(value or '', '^(%d+) %+$'))
  return number and number < 9007199254740991 and number
end

-- What follows the number of the fence.
local function mark(waited_for)
  return waited_for and ' +' or ''
end

-- The record with the mark, or without.
local function marked(record, waited_for)
  return string.sub(record, 1, 32) .. (waited_for and '+' or ' ') .. string.sub(record, 34)
end

-- Sees to it that whoever frees or finds free the lock looks at the queue.
local function mark_all()
  local value = redis.call('GET', fence)
  if not value then
    redis.call('SET', fence, '0 +', 'PX', 608400000)
  elseif string.find(value, '^%d+$') then
    redis.call('SET', fence, value .. ' +', 'KEEPTTL')
  end
  local record = redis.call('GET', lock)
  -- Not what a foreign client wrote.
  if record and string.find(record, '^' .. string.rep('%x', 32) .. ' [%d@]') then
    redis.call('SET', lock, marked(record, true), 'KEEPTTL')
  end
end

-- Notes that a process is alive; answers its generation.
local function is_alive(process, holder)
  local generation, _, known = string.match(redis.call('HGET', seen, process) or '', '^(%d+) (%d+) (.*)$')
  generation = generation or string.format('%.0f', now)
  redis.call('HSET', seen, process, string.format('%s %.0f %s', generation, now + ALIVE_MICROS, holder or known or ''))
  return tonumber(generation)
end

-- The same, and keeps the queue.
local function note_alive(process, holder)
  local generation = is_alive(process, holder)
  redis.call('PEXPIRE', seen, KEPT_MS)
  redis.call('PEXPIRE', queue, KEPT_MS)
  return generation
end

-- The first waiter of a process that is alive, but for the one that has just been handed the lock. Takes the dead before it off the queue.
local function first_alive(handed_token, handed_process)
  for _, waiter in ipairs(redis.call('ZRANGE', queue, 0, LOOKED_AT - 1)) do
    local process = string.sub(waiter, 33)
    if string.sub(waiter, 1, 32) ~= handed_token then
      local until_time = string.match(redis.call('HGET', seen, process) or '', '^%d+ (%d+)')
      -- Who has just been handed the lock had no time yet to call.
      if process == handed_process or (until_time and tonumber(until_time) > now) then
        return waiter
      end
      redis.call('ZREM', queue, waiter)
      redis.call('HDEL', seen, process)
    end
  end
end

local function score_at_the_end()
  local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
  -- In the order of coming also when the clock was set back.
  return string.format('%.0f', math.max(now, (tonumber(last[2]) or 0) + 1))
end

local function enter(waiter)
  redis.call('ZADD', queue, score_at_the_end(), waiter)
  redis.call('PEXPIRE', queue, KEPT_MS)
  mark_all()
end

-- Whether somebody still waits.
local function leave(waiter)
  redis.call('ZREM', queue, waiter)
  if is_waited_for() then
    return true
  end
  redis.call('DEL', seen)
  local number = string.match(redis.call('GET', fence) or '', '^(%d+) %+$')
  if number then
    redis.call('SET', fence, number, 'KEEPTTL')
  end
  return false
end

local function tell(process, message)
  -- Whoever may not publish still releases; the waiters find out at their next look.
  redis.pcall('PUBLISH', 'dlock:wake:' .. process, message)
end

-- Hands the free lock to a waiter. Nothing happens if the fence is not ours.
local function hand_over(waiter)
  local value = redis.pcall('GET', fence)
  local last = type(value) == 'string' and is_fence(value)
  if value and not last then
    return
  end
  local token, process = string.sub(waiter, 1, 32), string.sub(waiter, 33)
  local generation, holder = string.match(redis.call('HGET', seen, process), '^(%d+) %d+ (.*)$')
  draw(last or nil, HANDOVER_MS, ' +')
  redis.call('SET', lock, token .. '+@' .. process .. ' ' .. holder, 'PX', HANDOVER_MS)
  redis.call('ZADD', queue, 'XX', score_at_the_end(), waiter)
  redis.call('HSET', seen, process, generation .. ' 0 ' .. holder)
  tell(process, 'claim ' .. token .. ' ' .. lock)
end

-- Tells the process of the next waiter when the lock ends. It looks by itself once a second, so only about ends that are sooner.
local function tell_end(left_ms)
  local waiter = left_ms < 1000 and first_alive()
  if waiter then
    tell(string.sub(waiter, 33), 'ends ' .. left_ms .. ' ' .. lock)
  end
end

-- Processes whose waiters all left the queue are never met there. Few calls have to do it: their number must have doubled.
local function forget_the_dead()
  if redis.call('HLEN', seen) <= 16 + 2 * redis.call('ZCARD', queue) then
    return
  end
  local known = redis.call('HGETALL', seen)
  for place = 1, #known, 2 do
    if tonumber(string.match(known[place + 1], '^%d+ (%d+)')) <= now then
      redis.call('HDEL', seen, known[place])
    end
  end
end
