-- Writes one usage, if its customer is in the cache and nothing newer is stored.
--
-- KEYS  locks …, the customer key's timestamp key, usage key, usage timestamp key
-- ARGV  1 number of locks   2 expiry in seconds, '' for none   3 timestamp   4 value
-- Returns {status, keys written, keys skipped as stale}; status: see the constants in scripts.rs.
local locks = tonumber(ARGV[1])
local asked = {}
for i = 1, locks + 1 do asked[i] = KEYS[i] end
asked[locks + 2] = KEYS[locks + 3]
local stored = redis.call('MGET', unpack(asked))
for i = 1, locks do
    if stored[i] then return {1, 0, 0} end
end
if not stored[locks + 1] then return {4, 0, 0} end
local before = stored[locks + 2] and tonumber(stored[locks + 2])
local timestamp = tonumber(ARGV[3])
if before and before > timestamp and timestamp ~= 0 then return {0, 0, 1} end
if ARGV[2] == '' then
    redis.call('MSET', KEYS[locks + 2], ARGV[4], KEYS[locks + 3], ARGV[3])
else
    redis.call('SET', KEYS[locks + 2], ARGV[4], 'EX', ARGV[2])
    redis.call('SET', KEYS[locks + 3], ARGV[3], 'EX', ARGV[2])
end
return {0, 1, 0}
