-- Names some of the locks of this server.
--
-- ARGV  1 where to begin, 2 a pattern, 3 how many keys to look at
--
-- {'listed', where to go on or '0', the keys that match, hold a string and can be those of locks}

local found = redis.pcall('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3], 'TYPE', 'string')
if found.err then
  -- Versions word it differently, and none of them names the command.
  if string.find(found.err, 'permission') or string.find(found.err, "can't run this command") then
    return redis.error_reply('NOPERM this user may not list keys: it needs the right +scan')
  end
  return found
end
local keys = {}
for _, key in ipairs(found[2]) do
  -- Those beside a lock have its key in braces, which no lock's key has; nor is one as long.
  if #key <= 512 and not string.find(key, '{', 1, true) then
    table.insert(keys, key)
  end
end
return {'listed', found[1], keys}
