-- Draws the next fencing token: the server's time in µs, or one more than the last if that is ahead. The clock keeps tokens rising when the
-- counter is lost, the counter when the clock is set back. Expects fence and now; `last` is nil for a new counter, `mark` what follows the number.
local function draw(last, ttl, mark)
  -- An increment keeps the counter's life. It is renewed by the first grant of each hour, and lasts a week more than that, or two times to live.
  if last and mark == '' and ttl < 302400000 and math.floor(last / 3600000000) == math.floor(now / 3600000000) then
    return redis.pcall('INCRBY', fence, math.max(now - last, 1))
  end
  local number = math.max((last or 0) + 1, now)
  -- tostring would print 1.79e+15.
  redis.call('SET', fence, string.format('%.0f', number) .. mark, 'PX', math.max(608400000, 2 * ttl))
  return number
end

local function no_fence()
  return redis.error_reply('WRONGTYPE the fence key holds no number below 2^53 - 1')
end
