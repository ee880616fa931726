-- Claims a key for an owner.
--
-- KEYS  1 the lock, 2 its fence: the highest fencing token so far, and, if the answer without them
--       was 'marked' or if a refusal is to queue the owner, 3 its queue, 4 the heartbeats of the
--       queue's processes
-- ARGV  1 the record to write, '<owner token> 0 <holder>', 2 time to live in ms, 3 server time in
--       ms from which on the claim must do nothing, 4 the process in which the owner waits, if a
--       refusal is to queue it, 5 anything, if an earlier claim of this owner may have been granted
--       without an answer, 6 for how long the fence is kept in ms, if not for a week; what comes
--       before an argument that is given may be empty
--
-- fencing token, for a grant of the time that was asked for, if the token is the server's time or
--       less than a millisecond behind it
-- {'granted', fencing token, remaining ms, server time}
-- {'held', the record without its owner token, remaining ms or -1, server time, fencing token or 0}
-- {'queued', the same four, generation of the process, 1 if it is the first in the queue}
-- {'stale', server time}
-- {'marked'}: nothing was done, as somebody may wait, and not all keys are named
--
-- Server times are in µs.
--
-- A record is '<owner token> <sequence of the last extend> <holder>'. If the owner's process
-- receives messages, '@<process>' follows the sequence. Its fencing token is what the fence key
-- holds, as nobody was granted the lock since. Until the waiter that the lock was handed to claims
-- it, the record is '<owner token> @<process> <holder>', and has no fencing token. While somebody
-- waits, the first space is a plus and ' +' follows the fence's number: so whom it does not concern
-- needs no look at the queue.
--
-- A fencing token is the server's time, or one more than the last token if that is ahead. The clock
-- keeps tokens rising when the counter is lost, the counter when the clock is set back. What costs
-- the server most is asking for the time and writing numbers. So the time of most tokens is that of
-- the millisecond, which the end of the lock tells, and tokens of one millisecond are counted.

local lock, fence, ttl = KEYS[1], KEYS[2], ARGV[2]
local call = redis.call

-- Nearly always the lock is free and nobody waits. Otherwise what was done is taken back, as it is
-- when this user lacks the right to a command: a script that fails half-way is not rolled back. So
-- no command here raises an error; what the server says to one that is not allowed is `refused`.
local set = redis.pcall('SET', lock, ARGV[1], 'NX', 'PX', ttl)
if set and set.ok then
  -- Redis 6 has no such command, and a user may have no right to it.
  local ends = redis.pcall('PEXPIRETIME', lock)
  local millis, refused
  if type(ends) == 'number' then
    millis = ends - ttl
  else
    local time = redis.pcall('TIME')
    refused = time.err and time
    millis = not refused and time[1] * 1000 + math.floor(time[2] / 1000)
  end
  if millis and ARGV[3] - millis > 0 then
    -- An error if somebody waits, or if it is no fence.
    local token = redis.pcall('INCR', fence)
    if type(token) == 'number' then
      local ahead = token - millis * 1000
      if ahead < 0 and token > 0 then
        -- The first token of this millisecond. An increment keeps the fence's life, which the first
        -- grant of each hour renews.
        if token > 1 and token % 3600000000 - ahead < 3600000000 then
          token = redis.pcall('INCRBY', fence, -ahead)
          refused = type(token) ~= 'number' and token
        else
          -- If there was none, it may have been lost a moment ago: the tokens of this millisecond
          -- may have been higher.
          local time = token == 1 and redis.pcall('TIME')
          refused = time and time.err and time
          if refused then
            -- It was made a moment ago, and would have no end.
            redis.pcall('DEL', fence)
          else
            token = time and time[1] * 1000000 + time[2] or millis * 1000
            -- tostring would print 1.79e+15.
            local kept = redis.pcall('SET', fence, string.format('%.0f', token), 'PX', 608400000)
            refused = kept.err and kept
          end
        end
        ahead = 0
      end
      if not refused and ahead >= 0 and ahead < 1000 then
        local kept = ARGV[6] and redis.pcall('PEXPIRE', fence, ARGV[6])
        if not kept or type(kept) == 'number' then
          return token
        end
        refused = kept
      end
      if not refused and token > 0 and token < 9007199254740991 then
        -- The clock was set back. Until it has caught up, the fence must stay.
        local left = redis.pcall('PTTL', fence)
        if type(left) == 'number' and left < tonumber(ARGV[6] or 608400000) then
          left = redis.pcall('PEXPIRE', fence, ARGV[6] or 608400000)
        end
        if type(left) == 'number' then
          return {'granted', token, tonumber(ttl), millis * 1000}
        end
        refused = left
      end
      if not refused then
        redis.pcall('INCRBY', fence, -1)
      end
    end
  end
  local deleted = redis.pcall('DEL', lock)
  if type(deleted) ~= 'number' then
    -- It ends at once.
    call('SET', lock, ARGV[1], 'PX', 1)
    return refused or deleted
  end
  if refused then
    return refused
  end
end

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
if now >= ARGV[3] * 1000 then
  return {'stale', now}
end

local process = ARGV[4] ~= '' and ARGV[4] or nil
local record = call('GET', lock)
local ours = record and string.sub(record, 1, 32) == string.sub(ARGV[1], 1, 32)

local function held(record)
  -- Not the token itself: whoever has it can release the lock. A foreign record may have any
  -- length.
  local is_handed = string.sub(record, 34, 34) == '@'
  local token = not is_handed and string.match(call('GET', fence) or '', '^%d+') or 0
  return {'held', string.sub(record, 34, 640), call('PTTL', lock), now, tonumber(token)}
end

if record and not ours and not process then
  return held(record)
end
if not record and set and set.err then
  return set
end

-- include fence.lua

local last = call('GET', fence)
if last and not is_fence(last) and (ours or not record) then
  return no_fence()
end
local is_marked = ours and string.sub(record, 33, 33) == '+' or last and string.find(last, '+', 1, true)
if not KEYS[3] and (process or not record or is_marked) then
  return {'marked'}
end

-- include queue.lua

ttl = tonumber(ttl)
local kept = tonumber(ARGV[6] or 608400000)
local waiter = process and string.sub(ARGV[1], 1, 32) .. process
local holder = string.match(ARGV[1], ' (.*)$', 34) or ''

-- Draws the next fencing token. `mark` is what follows the number.
local function draw(last, mark)
  local number = math.max((last or 0) + 1, now)
  if number > now then
    -- The clock was set back. Until it has caught up, the fence must stay.
    kept = math.max(kept, call('PTTL', fence))
  end
  call('SET', fence, string.format('%.0f', number) .. mark, 'PX', kept)
  return number
end

-- What was handed to a process that has died since is free.
local handed_process = record and not ours and string.match(record, '^%x+%+@(%x+) ')
if handed_process and is_gone(handed_process) then
  call('DEL', lock)
  record = false
  if set and set.err then
    return set
  end
  if last and not is_fence(last) then
    return no_fence()
  end
end

if not record then
  if process then
    note_alive(process, holder)
  end
  -- Nobody overtakes: the lock goes to whoever waits for it, now.
  if not hand_over(waiter) then
    local waited_for = leave(waiter or '')
    local token = draw(is_fence(last), mark(waited_for))
    call('SET', lock, marked(ARGV[1], waited_for), 'PX', ttl)
    notify_end(ttl)
    return {'granted', token, ttl, now}
  end
  record = call('GET', lock)
  if not process then
    return held(record)
  end
end

if not ours then
  if not call('ZSCORE', queue, waiter) then
    if call('ZCARD', queue) >= 10000 then
      return redis.error_reply('QUEUEFULL 10000 wait for this key already')
    end
    enter(waiter)
  end
  local answer = held(record)
  answer[1] = 'queued'
  answer[6] = note_alive(process, holder)
  answer[7] = call('ZRANGE', queue, 0, 0)[1] == waiter and 1 or 0
  return answer
end

-- If nothing is marked, nobody waits.
local waited_for = KEYS[3] and leave(waiter or '')
local token = is_fence(last)
if string.sub(record, 34, 34) == '@' then
  -- The lock was handed to it. The token is drawn now: an old copy of the fence may have come back
  -- meanwhile.
  if waited_for and process then
    is_alive(process, holder)
  end
  token = draw(token, mark(waited_for))
  call('SET', lock, marked(ARGV[1], waited_for), 'PX', ttl)
else
  -- The same claim once more, since its answer was lost. It may only gain.
  ttl = math.max(call('PTTL', lock), ttl)
  call('PEXPIRE', lock, ttl)
  if not token or token == 0 then
    -- Lost under the lock, perhaps before a waiter marked it: nobody knows any more what it was.
    token = draw(nil, mark(waited_for))
  elseif ARGV[5] and ARGV[5] ~= '' then
    -- Nobody has seen the token that was drawn then. If the lock or the fence is an old copy,
    -- others were granted higher ones since.
    token = draw(token, mark(waited_for))
  elseif ARGV[6] then
    call('PEXPIRE', fence, ARGV[6])
  end
end
if waited_for then
  notify_end(ttl)
end
return {'granted', token, ttl, now}
