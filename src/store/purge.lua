-- Deletes what is cached of a customer and remembers when the purge was sent, so that a message that was sent
-- before it and comes after it does not bring the old state back. It remembers as well how new the state was that it
-- deleted: the purge may itself be late news, and then nothing older than that state may take its place.
--
-- KEYS  locks …, the purge mark, keys to delete …, timestamp keys first
-- ARGV  1 number of locks   2 when the message was sent (epoch ms)   3 the mark's expiry in seconds
--       4 number of timestamp keys
-- The mark is '<when the last purge was sent>', or '<when>:<timestamp of the newest list forgotten>'.
-- Returns {status, 1, 0}; status: see the constants in scripts.rs.
local locks = tonumber(ARGV[1])
for i = 1, locks do
    if redis.call('EXISTS', KEYS[i]) == 1 then return {1, 0, 0} end
end
local mark = KEYS[locks + 1]
local before, forgotten = string.match(redis.call('GET', mark) or '', '^(%d+):?(%d*)$')
local sent_at = ARGV[2]
if before and tonumber(before) > tonumber(sent_at) then sent_at = before end
for i = locks + 2, locks + 1 + tonumber(ARGV[4]) do
    local timestamp = string.match(redis.call('GET', KEYS[i]) or '', '^%d+$')
    if timestamp and tonumber(timestamp) > (tonumber(forgotten) or 0) then forgotten = timestamp end
end
if tonumber(forgotten) then sent_at = sent_at .. ':' .. forgotten end
redis.call('SET', mark, sent_at, 'EX', ARGV[3])
if #KEYS > locks + 1 then redis.call('DEL', unpack(KEYS, locks + 2)) end
return {0, 1, 0}
