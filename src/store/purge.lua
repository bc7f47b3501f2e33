-- Deletes what is cached of a customer and remembers when the purge was sent, so that a message that was sent
-- before it and comes after it does not bring the old state back.
--
-- KEYS  locks …, the purge mark, keys to delete …
-- ARGV  1 number of locks   2 when the message was sent (epoch ms)   3 the mark's expiry in seconds
-- Returns {status, 1, 0}; status: see the constants in scripts.rs.
local locks = tonumber(ARGV[1])
for i = 1, locks do
    if redis.call('EXISTS', KEYS[i]) == 1 then return {1, 0, 0} end
end
local mark = tonumber(redis.call('GET', KEYS[locks + 1]) or '')
if not mark or mark < tonumber(ARGV[2]) then
    redis.call('SET', KEYS[locks + 1], ARGV[2], 'EX', ARGV[3])
end
if #KEYS > locks + 1 then redis.call('DEL', unpack(KEYS, locks + 2)) end
return {0, 1, 0}
