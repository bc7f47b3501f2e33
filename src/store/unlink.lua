-- Unlinks scanned values with their timestamps. A list that is newer than the invalidation came before it out of
-- order: its customer's purge mark remembers how new it was, so that nothing older takes its place.
--
-- KEYS  (value, timestamp, purge mark) a value; a value that is no list has its own key in the place of the mark
-- ARGV  1 when the invalidation was sent (epoch ms)   2 a mark's expiry in seconds
-- Returns the number of keys unlinked.
local unlinked = 0
for i = 1, #KEYS, 3 do
    local value, timestamp, mark = KEYS[i], KEYS[i + 1], KEYS[i + 2]
    local at = mark ~= value and string.match(redis.call('GET', timestamp) or '', '^%d+$')
    if at and tonumber(at) > tonumber(ARGV[1]) then
        local purged, forgotten = string.match(redis.call('GET', mark) or '', '^(%d+):?(%d*)$')
        if tonumber(at) > (tonumber(forgotten) or 0) then
            redis.call('SET', mark, (purged or '0') .. ':' .. at, 'EX', ARGV[2])
        end
    end
    unlinked = unlinked + redis.call('UNLINK', value, timestamp)
end
return unlinked
