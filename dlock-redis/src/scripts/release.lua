-- Frees a key, if the owner holds it.
--
-- KEYS  1 the lock
-- ARGV  1 owner token
--
-- 1 if it was the owner's, else 0

local record = redis.call('GET', KEYS[1])
if not record or string.sub(record, 1, 32) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
