-- The queue of a key, for the scripts that meet one. Expects lock, fence, now and is_fence.
--
-- queue       a sorted set of waiters, '<owner token><process>', in the order of their coming
-- heartbeats  a hash, process -> '<generation> <server time in µs until which it counts as
--             alive><flags> <holder description>'
--
-- The flags of a process:
--
--   ! it calls, and receives no messages: its next call finds what it was handed
--   ? it was handed the lock, could not be reached, or was asked to call, and has not called
--     since: its waiters keep their places and are passed over
--
-- A lock is handed to a waiter in its absence, under a short lease, and its process is notified.
-- The waiter goes to the end of the queue, and leaves it when it claims. The waiters of a process
-- that is dead are taken off the queue when their turn comes. If it was alive after all, it begins
-- a new generation, and its waiters see that they must queue again.
--
-- Any of the keys may have come back from an old copy of the data. So nothing here proves that a
-- waiter still waits, or that a process has died: the process itself says so, by its calls, by
-- giving back what was handed to a waiter that it does not know, or by receiving no messages.

local queue, heartbeats = KEYS[3], KEYS[4]

-- Longer than the time between two heartbeats: a heartbeat finds the hand-over if its message was
-- lost.
local HANDOVER_MS = 1200
local ALIVE_MICROS = 3000000
local KEPT_MS = 10000
-- How many waiters are read at a time.
local CHUNK = 100

local function is_waited_for()
  return redis.call('EXISTS', queue) == 1
end

-- What follows the number of the fence.
local function mark(waited_for)
  return waited_for and ' +' or ''
end

-- The record with the mark, or without.
local function marked(record, waited_for)
  return string.sub(record, 1, 32) .. (waited_for and '+' or ' ') .. string.sub(record, 34)
end

local function mark_fence(value)
  if not value then
    redis.call('SET', fence, '0 +', 'PX', 608400000)
  elseif string.find(value, '^%d+$') then
    redis.call('SET', fence, value .. ' +', 'KEEPTTL')
  end
end

-- Marks the lock and its fence, so that the next release or claim looks at the queue.
local function mark_all()
  mark_fence(redis.call('GET', fence))
  local record = redis.call('GET', lock)
  -- Not what a foreign client wrote.
  if record and string.find(record, '^' .. string.rep('%x', 32) .. ' [%d@]') then
    redis.call('SET', lock, marked(record, true), 'KEEPTTL')
  end
end

-- Returns generation, end, flags and holder description of a process, or nil.
local function known(process)
  return string.match(redis.call('HGET', heartbeats, process) or '', '^(%d+) (%d+)(!?%??) (.*)$')
end

local function has_no_subscription(flags)
  return string.sub(flags or '', 1, 1) == '!'
end

local function note(process, generation, flags, holder)
  local value = string.format('%s %.0f%s %s', generation, now + ALIVE_MICROS, flags, holder)
  redis.call('HSET', heartbeats, process, value)
end

-- Notes that a process has not called since it was handed the lock, or could not be reached.
local function pass_over(process)
  local generation, _, flags, holder = known(process)
  note(process, generation, has_no_subscription(flags) and '!?' or '?', holder)
end

-- Notes that a process has called; answers its generation. `flags` are given if it is known whether
-- it receives messages.
local function is_alive(process, holder, flags)
  local generation, _, before, description = known(process)
  generation = generation or string.format('%.0f', now)
  flags = flags or (has_no_subscription(before) and '!') or ''
  note(process, generation, flags, holder or description or '')
  return tonumber(generation)
end

-- The same, and keeps the queue.
local function note_alive(process, holder, flags)
  local generation = is_alive(process, holder, flags)
  redis.call('PEXPIRE', heartbeats, KEPT_MS)
  redis.call('PEXPIRE', queue, KEPT_MS)
  return generation
end

-- Returns how many clients receive the message; nil if that is not known. It is not if this user
-- may not publish: its releases count all the same, and a waiter finds them with its next
-- heartbeat. Nor is it in a cluster, which delivers the message to the subscribers of all nodes and
-- counts those of this one: the name of a process that uses a cluster is longer than 16 digits.
local function notify(process, message)
  local receivers = redis.pcall('PUBLISH', 'dlock:wake:' .. process, message)
  return type(receivers) == 'number' and #process <= 16 and receivers or nil
end

-- What becomes of a process's waiters whose turn has come: 'served', 'unsubscribed' (served
-- without a message), 'passed' over or 'dead'.
local function standing(process)
  local generation, until_time, flags, holder = known(process)
  local has_not_called = flags and string.sub(flags, -1) == '?'
  if until_time and tonumber(until_time) > now then
    return has_not_called and 'passed' or has_no_subscription(flags) and 'unsubscribed' or 'served'
  end
  -- It has not called for a while. If it receives messages it may have, and what is known of it is
  -- old: it is asked, once.
  if not has_not_called and (notify(process, 'ends 0 ' .. lock) or 0) > 0 then
    note(process, generation or string.format('%.0f', now), '?', holder or '')
    return 'passed'
  end
  redis.call('HDEL', heartbeats, process)
  return 'dead'
end

-- The first waiter that is not passed over and that `takes` accepts. Takes the dead before it off
-- the queue. `standings` may say beforehand what processes are.
local function first_alive(takes, standings)
  local at = 0
  repeat
    local waiters = redis.call('ZRANGE', queue, at, at + CHUNK - 1)
    local dead, found = {}, nil
    for _, waiter in ipairs(waiters) do
      local process = string.sub(waiter, 33)
      standings[process] = standings[process] or standing(process)
      if standings[process] == 'dead' then
        table.insert(dead, waiter)
      elseif standings[process] ~= 'passed' and takes(waiter, process) then
        found = waiter
        break
      end
    end
    if dead[1] then
      redis.call('ZREM', queue, unpack(dead))
    end
    if found then
      return found
    end
    at = at + #waiters - #dead
  until #waiters < CHUNK
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

-- Takes a waiter off the queue. Returns whether another one still waits.
local function leave(waiter)
  redis.call('ZREM', queue, waiter)
  if is_waited_for() then
    return true
  end
  redis.call('DEL', heartbeats)
  local number = string.match(redis.call('GET', fence) or '', '^(%d+) %+$')
  if number then
    redis.call('SET', fence, number, 'KEEPTTL')
  end
  return false
end

-- Hands the free lock to the first waiter whose process is alive and can be reached, unless that is
-- `claimant`, who is here. Answers the waiter it was handed to; nil and true if the fence is not
-- ours.
local function hand_over(claimant)
  local value = redis.pcall('GET', fence)
  if value and not (type(value) == 'string' and is_fence(value)) then
    return nil, true
  end
  local standings = {}
  local waiter = first_alive(function(waiter, process)
    if waiter == claimant then
      return true
    end
    local receivers = notify(process, 'claim ' .. string.sub(waiter, 1, 32) .. ' ' .. lock)
    if receivers ~= 0 or standings[process] == 'unsubscribed' then
      return true
    end
    -- Killed, most likely. If it only subscribes anew, its next call says so.
    pass_over(process)
    standings[process] = 'passed'
  end, standings)
  if not waiter or waiter == claimant then
    return nil
  end
  local token, process = string.sub(waiter, 1, 32), string.sub(waiter, 33)
  local _, _, _, holder = known(process)
  redis.call('SET', lock, token .. '+@' .. process .. ' ' .. holder, 'PX', HANDOVER_MS)
  if not (value and string.sub(value, -1) == '+') then
    mark_fence(value)
  end
  redis.call('ZADD', queue, 'XX', score_at_the_end(), waiter)
  pass_over(process)
  return waiter
end

-- Whether a process that was handed the lock has died since.
local function is_gone(process)
  local _, _, flags = known(process)
  return not has_no_subscription(flags) and notify(process, 'ping') == 0
end

-- The waiter that is next while the lock is held. A process that has just been handed the lock had
-- no time yet to call, and its waiter is not the next.
local function next_waiter(handed_token, handed_process)
  local standings = {}
  if handed_process then
    standings[handed_process] = 'served'
  end
  return first_alive(function(waiter)
    return string.sub(waiter, 1, 32) ~= handed_token
  end, standings)
end

-- Notifies the process of the next waiter when the lock ends, if that is sooner than its next
-- heartbeat. Raises no error: the lock is written already, and the heartbeat finds its end as well.
local function notify_end(left_ms)
  local found, waiter = pcall(function()
    return left_ms < 1000 and next_waiter()
  end)
  if found and waiter then
    notify(string.sub(waiter, 33), 'ends ' .. left_ms .. ' ' .. lock)
  end
end

-- Processes whose waiters all left the queue are never met there. Few calls have to do it: their
-- number must have doubled.
local function forget_the_dead()
  if redis.call('HLEN', heartbeats) <= 16 + 2 * redis.call('ZCARD', queue) then
    return
  end
  local known = redis.call('HGETALL', heartbeats)
  for place = 1, #known, 2 do
    if tonumber(string.match(known[place + 1], '^%d+ (%d+)')) <= now then
      redis.call('HDEL', heartbeats, known[place])
    end
  end
end
