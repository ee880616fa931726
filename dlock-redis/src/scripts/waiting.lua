-- Counts the waiters of a key.
--
-- KEYS  1 the lock, 2 its fence, 3 its queue, 4 the heartbeats of the queue's processes
--
-- how many are in the queue; some may have died a moment ago

return redis.call('ZCARD', KEYS[3])
