-- Says who holds a key.
--
-- KEYS  1 the lock, 2 its fence
--
-- 0 if it is free
-- {'held', the record without its owner token, remaining ms or -1, server time, fencing token or 0}

local record = redis.call('GET', KEYS[1])
if not record then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- What was handed over and not claimed has none yet.
local is_handed = string.sub(record, 34, 34) == '@'
local token = not is_handed and string.match(redis.call('GET', KEYS[2]) or '', '^%d+') or 0
return {'held', string.sub(record, 34, 640), redis.call('PTTL', KEYS[1]), now, tonumber(token)}
