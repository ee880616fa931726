-- Runs one of dlock's scripts where the lock, its fence, its queue and the heartbeats are as they
-- are told, at a time and with subscribers that are told too. Returns what came of it.
--
-- KEYS  1 to 4: these keys
-- ARGV  1 all of that, as JSON

local given = cjson.decode(ARGV[1])
local server, all = redis, KEYS
local begun = server.call('TIME')

for _, key in ipairs(all) do
  server.call('DEL', key)
end
if given.lock then
  server.call('SET', all[1], given.lock)
end
if given.fence then
  server.call('SET', all[2], given.fence)
end
for place = 1, #given.queue, 2 do
  server.call('ZADD', all[3], given.queue[place + 1], given.queue[place])
end
for place = 1, #given.heartbeats, 2 do
  server.call('HSET', all[4], given.heartbeats[place], given.heartbeats[place + 1])
end
for place, left in ipairs(given.left) do
  if left >= 0 then
    server.call('PEXPIRE', all[place], left)
  end
end

-- What the script sees.
local messages = {}
local KEYS, ARGV = {}, given.arguments
for place = 1, given.keys do
  KEYS[place] = all[place]
end
local ttl
local redis = {
  error_reply = server.error_reply,
  call = function(command, ...)
    if command == 'TIME' then
      return given.time
    end
    return server.call(command, ...)
  end,
  pcall = function(command, ...)
    if command == 'TIME' then
      return given.time
    end
    if command == 'SET' then
      ttl = select(5, ...)
    end
    if command == 'PUBLISH' then
      local channel, message = ...
      local process = string.match(channel, '^dlock:wake:(%x+)$')
      table.insert(messages, process .. ' ' .. message)
      return given.receivers[process]
    end
    if command == 'PEXPIRETIME' then
      return given.time[1] * 1000 + math.floor(given.time[2] / 1000) + ttl
    end
    return server.pcall(command, ...)
  end,
}

local function script()
  -- the script
end

local answer = script()
if type(answer) == 'table' and answer.err then
  answer = {'error', answer.err}
end

local left = {}
for place, key in ipairs(all) do
  left[place] = server.call('PTTL', key)
end
local ended = server.call('TIME')
return {
  answer,
  messages,
  server.call('GET', all[1]),
  server.call('GET', all[2]),
  server.call('ZRANGE', all[3], 0, -1, 'WITHSCORES'),
  server.call('HGETALL', all[4]),
  left,
  (ended[1] - begun[1]) * 1000000 + ended[2] - begun[2],
}
