-- The next fencing token, as a number and as its digits; nil if the fence key holds no number below 2^53 - 1: above that a Lua number
-- loses the last digits, and tokens would repeat. The clock keeps tokens rising when the counter is lost, the counter when the clock
-- is set back. Expects fence and now.
local function next_fence()
  local last = redis.pcall('GET', fence) or '0'
  if type(last) ~= 'string' or not string.find(last, '^%d+$') or tonumber(last) >= 9007199254740991 then
    return nil
  end
  local number = math.max(last + 1, now)
  -- tostring would print 1.79e+15.
  return number, string.format('%.0f', number)
end
