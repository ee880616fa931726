-- Frees a key, if the owner holds it, and hands it to the first waiter that is alive, which
-- `hand_over` in queue.lua chooses. An owner that waited is taken off the queue.
--
-- KEYS  1 the lock, and, if the answer without them was 'marked' or if the owner waits, 2 its
--       fence, 3 its queue, 4 the heartbeats of the queue's processes
-- ARGV  1 what the record probably is, or only its owner token, 2 the process in which the owner
--       waits, if it does, 3 'handed', if only what was handed over and not claimed is given back:
--       the process does not know the waiter, and may have been notified before the waiter's claim,
--       4 anything, if the answer is to say how a record is deleted without a script; what comes
--       before an argument that is given may be empty
--
-- 1 if it was the owner's, else 0
-- {'released', the same, 'DELIFEQ' or 'DELEX' or ''}
-- {'marked'}: nothing was done, as somebody waits, and not all keys are named

local lock = KEYS[1]

local record = redis.call('GET', lock)
if record == ARGV[1] and not ARGV[2] then
  -- Nobody waits, or the record would have a mark.
  return redis.call('DEL', lock)
end

local process = ARGV[2] ~= '' and ARGV[2] or nil
local owner = string.sub(ARGV[1], 1, 32)
local ours = record and string.sub(record, 1, 32) == owner
local is_marked = ours and string.sub(record, 33, 33) ~= ' '
if not KEYS[2] and is_marked then
  return {'marked'}
end
if ours and ARGV[3] == 'handed' then
  ours = string.sub(record, 34, 34) == '@'
end
if ours then
  -- First: a server that is full refuses other writes, unless the script has written already.
  redis.call('DEL', lock)
end

local result = ours and 1 or 0
if ARGV[4] then
  -- The command of Valkey 9, and that of Redis 8.4, if this user may call it. It is an error to ask
  -- for a command that does not exist.
  local function may_call(...)
    local exists, allowed = pcall(redis.acl_check_cmd, ...)
    return exists and allowed
  end
  local deletes = may_call('DELIFEQ', lock, record or '') and 'DELIFEQ'
    or may_call('DELEX', lock, 'IFEQ', record or '') and 'DELEX'
  result = {'released', result, deletes or ''}
end
if not process and (not ours or not is_marked) then
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
    if leave(owner .. process) then
      note_alive(process)
    end
  end
  if (ours or not record) and not hand_over() then
    -- All of them may have been dead.
    leave('')
  end
end

local done, problem = pcall(hand_on)
if not done and not ours then
  error(problem)
end
-- Whatever stands where the queue should: the lock was the owner's, and is free.
return result
