-- Claims a key for an owner.
--
-- KEYS  1 the lock, 2 its fence: the highest fencing token so far
-- ARGV  1 owner token, 2 holder description, 3 time to live in ms,
--       4 server time in µs from which on the claim must do nothing, 5 life of the fence in ms
--
-- {'granted', fencing token, remaining ms, server time}
-- {'held', what follows the owner token in the record, remaining ms or -1, server time}
-- {'stale', server time}
--
-- A record is '<owner token> <fencing token> <sequence of the last extend> <holder>'. Nothing is written before everything was
-- looked at: a script that fails half-way is not rolled back.

local lock, fence = KEYS[1], KEYS[2]
local token, holder, ttl, not_after, fence_life = unpack(ARGV)

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now >= tonumber(not_after) then
  return {'stale', now}
end

local record = redis.call('GET', lock)
if record then
  local left = redis.call('PTTL', lock)
  if string.sub(record, 1, 32) ~= token then
    -- Not the token itself: whoever has it can release the lock. A foreign record may have any length.
    return {'held', string.sub(record, 34, 640), left, now}
  end
  -- The same claim once more, since its answer was lost. It may only gain.
  if left < tonumber(ttl) then
    redis.call('PEXPIRE', lock, ttl)
    left = tonumber(ttl)
  end
  return {'granted', tonumber(string.match(record, '^%S+ (%d+) ')), left, now}
end

local last = redis.call('GET', fence) or '0'
-- Above 2^53 a Lua number loses the last digits, and tokens would repeat.
if not string.find(last, '^%d+$') or tonumber(last) >= 9007199254740991 then
  return redis.error_reply('WRONGTYPE the fence key holds no number below 2^53 - 1')
end
-- The clock keeps tokens rising when the counter is lost, the counter when the clock is set back.
local next = math.max(last + 1, now)
-- tostring would print 1.79e+15.
local digits = string.format('%.0f', next)

redis.call('SET', fence, digits, 'PX', fence_life)
redis.call('SET', lock, token .. ' ' .. digits .. ' 0 ' .. holder, 'PX', ttl)
return {'granted', next, tonumber(ttl), now}
