-- The number of a fence, marked or not; nil if it is no fence of ours, or none. From 2^53 on a Lua
-- number loses the last digits, and tokens would repeat. A number with zeros before it is none to
-- Redis.
local function is_fence(value)
  local digits = string.match(value or '', '^(%d+)$') or string.match(value or '', '^(%d+) %+$')
  local number = digits and not string.find(digits, '^0%d') and tonumber(digits)
  return number and number < 9007199254740991 and number
end

local function no_fence()
  return redis.error_reply('WRONGTYPE the fence key holds no number below 2^53 - 1')
end
