-- The lease table (registry/lease_table.py) as one script: it runs whole in the server.
-- KEYS: the session, the counters, the detached, the prompts of the session that were asked before.
-- ARGV: operation, session, stream, strategy, ticket, fencing token, closed,
--   time in ms ('' is the server's), generation ('' is the server's), channel, limits,
--   digest of the prompt ('' is none), whether it says that it repeats, whether its answer was
--   whole, for how long in ms and how many such prompts are kept, whether what its grant named is
--   logged, for how long in ms and how many that were late are kept.
local session_key, counters_key, detached_key = KEYS[1], KEYS[2], KEYS[3]
local operation, session, me, strategy = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local given_ticket, given_token, closes = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local asked_key, digest, repeats, whole = KEYS[4], ARGV[12], ARGV[13] == '1', ARGV[14] == '1'
local keep, asked_max = tonumber(ARGV[15]), tonumber(ARGV[16])
local logged, late_keep, late_max = ARGV[17] == '1', tonumber(ARGV[18]), tonumber(ARGV[19])
local now, generation, channel, limits_text = tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11]
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
if generation == '' then
  generation = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or 'unknown'
end
local limits = {}
for number in string.gmatch(limits_text, '%d+') do limits[#limits + 1] = tonumber(number) end
local lease, margin, grace, lag = limits[1], limits[2], limits[3], limits[4]
local detached_per_session_max, detached_max, queue_max = limits[5], limits[6], limits[7]
local repeat_for = limits[8]
local over = lease + margin
local quarantine_lasts = over + lag

-- ---- what is kept ----

local kept = redis.call('HMGET', counters_key, 'last', 'generation', 'quarantine', 'active', 'limits')
local last, quarantine = tonumber(kept[1]) or 0, tonumber(kept[3]) or 0
local active = math.min(tonumber(kept[4]) or 0, now + over)
if kept[5] and kept[5] ~= limits_text and now < active then
  return redis.error_reply(string.format('LIMITS %d %s', active - now, kept[5]))
end
if kept[2] ~= generation then
  quarantine = now + quarantine_lasts
  last = math.max(last, now + margin)
end
quarantine = math.min(quarantine, now + quarantine_lasts)
local is_quarantined = now < quarantine
local function is_dead(seen) return now >= seen + over and not is_quarantined end

local fields, raw = {}, redis.call('HGETALL', session_key)
for i = 1, #raw, 2 do fields[raw[i]] = raw[i + 1] end
local holder, waiting, left = nil, {}, fields['left'] or ''
if fields['holder'] then
  holder = {
    stream = fields['holder'], token = tonumber(fields['token']), ticket = tonumber(fields['ticket']),
    till = math.min(tonumber(fields['until']), now + lease), seen = math.min(tonumber(fields['seen']), now),
    stop = tonumber(fields['stop']), why = fields['why'], closed = fields['closed'] == '1',
    overdue = fields['overdue'] == '1',
  }
  if holder.stop then holder.stop = math.min(holder.stop, now) end
end
for name, value in pairs(fields) do
  if string.sub(name, 1, 2) == 'w:' then
    local ticket, seen, how = string.match(value, '^(%d+) (%d+) (%a+)$')
    local each = {stream = string.sub(name, 3), ticket = tonumber(ticket), seen = tonumber(seen), strategy = how}
    if not is_dead(each.seen) then
      each.seen = math.min(each.seen, now)
      waiting[#waiting + 1] = each
    end
  end
end
local function sort() table.sort(waiting, function(a, b) return a.ticket < b.ticket end) end
sort()
if not holder and #waiting == 0 then left = '' end
local late, late_at = {}, math.min(tonumber(fields['late_ms']) or 0, now)
if now < late_at + late_keep then
  for stream in string.gmatch(fields['late'] or '', '[^\n]+') do late[#late + 1] = stream end
end

-- A member is the session's length, the session and the stream: so no two are alike.
local prefix = string.format('%d:%s', #session, session)
local detached, scores, detached_here, detached_all = {}, {}, 0, 0
raw = redis.call('ZRANGE', detached_key, 0, -1, 'WITHSCORES')
for i = 1, #raw, 2 do
  local member, seen = raw[i], tonumber(raw[i + 1])
  scores[member] = seen
  if is_dead(seen) then
    detached[member] = 'dead'
  else
    detached[member] = math.min(seen, now)
    detached_all = detached_all + 1
    if string.sub(member, 1, #prefix) == prefix then detached_here = detached_here + 1 end
  end
end
local function is_detached() return type(detached[prefix .. me]) == 'number' end
local function has_room()
  return detached_here < detached_per_session_max and detached_all < detached_max
end

-- ---- what is said, and what is kept afterwards ----

local messages = {}
local function tell(stream, told)
  messages[#messages + 1] = stream
  messages[#messages + 1] = told
end

local function integer(number) return string.format('%d', number) end

local function save()
  redis.call('HSET', counters_key, 'last', integer(last), 'generation', generation,
    'quarantine', integer(quarantine), 'active', integer(active), 'limits', limits_text)
  for member, seen in pairs(detached) do
    if type(seen) ~= 'number' then redis.call('ZREM', detached_key, member)
    elseif seen ~= scores[member] then redis.call('ZADD', detached_key, integer(seen), member) end
  end
  redis.call('DEL', session_key)
  if not holder and #waiting == 0 and #late == 0 then return end
  local values = {'left', left, 'asked_ms', integer(now)}
  local function put(name, value)
    values[#values + 1] = name
    values[#values + 1] = value
  end
  if holder then
    put('holder', holder.stream) put('token', integer(holder.token)) put('ticket', integer(holder.ticket))
    put('until', integer(holder.till)) put('seen', integer(holder.seen))
    if holder.stop then put('stop', integer(holder.stop)) put('why', holder.why) end
    put('closed', holder.closed and '1' or '0') put('overdue', holder.overdue and '1' or '0')
    -- Nobody here reads these. A worker of the release before does, and would lose the record
    -- without them, while workers are replaced one after the other.
    put('previous', '') put('finished', '0')
  end
  if #late > 0 then put('late', table.concat(late, '\n')) put('late_ms', integer(late_at)) end
  for _, each in ipairs(waiting) do
    put('w:' .. each.stream, integer(each.ticket) .. ' ' .. integer(each.seen) .. ' ' .. each.strategy)
  end
  redis.call('HSET', session_key, unpack(values))
end

local function answer(word, reply)
  save()
  if channel ~= '' then
    for i = 1, #messages, 2 do
      local worker = string.match(messages[i], '^[^/]*')
      redis.call('PUBLISH', channel .. worker, messages[i + 1] .. ' ' .. messages[i])
    end
  end
  reply = reply or {}
  local out = {word, reply.ticket or 0, reply.token or 0, reply.wait or 0, reply.why or '',
    reply.left or '', reply.late or '', reply.first or '', reply.newer or ''}
  for _, each in ipairs(messages) do out[#out + 1] = each end
  return out
end

local function answer_of_holder(word)
  local reply = {ticket = holder.ticket, token = holder.token, why = holder.why}
  if word == 'granted' then reply.left, reply.late = left, table.concat(late, '\n') end
  return answer(word, reply)
end

-- ---- what actions have in common ----

local function next_number()
  last = math.max(last + 1, now)
  return last
end

local function new_until()
  active = math.max(active, now + over)
  return now + lease
end

local function free_at()
  if holder.closed then return holder.stop + grace end
  return holder.till + margin
end

local function enqueued()
  local count = 0
  for _, each in ipairs(waiting) do if each.strategy == 'enqueue' then count = count + 1 end end
  return count
end

local function place()
  for i, each in ipairs(waiting) do if each.stream == me then return i end end
end

local function stop_holder(why)
  holder.stop, holder.why = now, why
  tell(holder.stream, why)
end

local function empty_queue(told, below)
  local stay = {}
  for _, each in ipairs(waiting) do
    if below and each.ticket >= below then stay[#stay + 1] = each
    elseif each.stream ~= me then tell(each.stream, told) end
  end
  waiting = stay
end

local function queue_up(ticket)
  waiting[#waiting + 1] = {stream = me, ticket = ticket, seen = now, strategy = strategy}
  sort()
end

local function leave_queue()
  local i = place()
  if i then table.remove(waiting, i) end
end

local function tell_next()
  if not holder and waiting[1] then tell(waiting[1].stream, 'free') end
end

local function extend(word)
  holder.till, holder.seen = new_until(), now
  return answer_of_holder(word)
end

local function keep_stopping()
  holder.seen, holder.closed = now, holder.closed or (operation == 'renew' and closes)
  return answer_of_holder('stop')
end

local function count_as_detached(stream, seen) detached[prefix .. stream] = seen end

-- Whose place is taken is named to each that is let in, until one of them has logged it.
local function drop_holder()
  late[#late + 1] = holder.stream
  late_at, holder = now, nil
  if #late > late_max then table.remove(late, 1) end
end

local function note_logged() left, late, late_at = '', {}, 0 end

-- ---- prompts that were asked before (registry/attempts.py) ----

local function read_asked()
  local asked = {}
  for line in string.gmatch(redis.call('GET', asked_key) or '', '[^\n]+') do
    local rank, over_at, what, stream = string.match(line, '^(%d+) (%S+) (%S+) (.*)$')
    asked[#asked + 1] = {rank = tonumber(rank), over_at = tonumber(over_at), digest = what, stream = stream}
  end
  return asked
end

local function save_asked(asked)
  if #asked == 0 then
    redis.call('DEL', asked_key)
    return
  end
  local lines = {}
  for _, each in ipairs(asked) do
    local over_at = each.over_at and integer(each.over_at) or '-'
    lines[#lines + 1] = integer(each.rank) .. ' ' .. over_at .. ' ' .. each.digest .. ' ' .. each.stream
  end
  redis.call('SET', asked_key, table.concat(lines, '\n'), 'PX', integer(math.max(keep, repeat_for)))
end

local function is_there(stream)
  if holder and holder.stream == stream then return not holder.stop and not is_dead(holder.seen) end
  for _, each in ipairs(waiting) do if each.stream == stream then return true end end
  return false
end

local function recent(asked)
  local found = {}
  for _, each in ipairs(asked) do
    if not each.over_at or now - each.over_at <= repeat_for then
      if not each.over_at and not is_there(each.stream) then each.over_at = now end
      found[#found + 1] = each
    end
  end
  return found
end

-- The first attempt and the newer prompt of a repetition; nothing where it is none.
local function judge(asked)
  local first, newest = nil, nil
  for _, each in ipairs(asked) do
    if each.stream == me then return nil end
    local there = is_there(each.stream)
    if there then newest = each end
    if not there and each.digest == digest then first = each end
  end
  if first and (not newest or newest.rank < first.rank) then
    first.stream, first.over_at = me, nil
    return nil
  end
  if not first or strategy ~= 'interrupt' or (newest.digest == digest and not repeats) then
    local rank = asked[1] and asked[#asked].rank + 1 or 1
    asked[#asked + 1] = {rank = rank, digest = digest, stream = me}
    if #asked > asked_max then table.remove(asked, 1) end
    return nil
  end
  first.over_at = now
  return first.stream, newest.stream
end

local function note_answered()
  local asked, kept = read_asked(), {}
  if #asked == 0 then return end
  for _, each in ipairs(asked) do
    if each.stream == me and not each.over_at then each.over_at = now end
    if each.stream ~= me or not whole then kept[#kept + 1] = each end
  end
  save_asked(kept)
end

-- ---- operations ----

-- The policy of a server that drops keys when its memory is full, sessions included.
local function evicting()
  local memory = redis.call('INFO', 'memory')
  if string.find(memory, 'maxmemory:0%s') then return nil end
  return string.match(memory, 'maxmemory_policy:(allkeys%-%a+)')
end

local named = 'unknown'
if holder and holder.stream == me then named = holder.stop and 'holds_stopped' or 'holds'
elseif place() then named = 'waits'
elseif is_detached() then named = 'detached' end

local function take_turn()
  local i = place()
  local mine = waiting[i]
  local is_first = i == 1
  if is_quarantined or not is_first or (holder and now < free_at()) then
    mine.seen = now
    local at = quarantine
    if not is_first then at = math.max(at, now + lease)
    elseif holder then at = math.max(at, free_at()) end
    return answer('waiting', {ticket = mine.ticket, wait = at - now})
  end
  if holder then
    if not is_dead(holder.seen) then
      if not has_room() then
        holder.overdue = true
        empty_queue('refused')
        return answer('overdue')
      end
      count_as_detached(holder.stream, holder.seen)
    end
    drop_holder()
  end
  table.remove(waiting, 1)
  holder = {
    stream = me, token = next_number(), ticket = mine.ticket, till = new_until(), seen = now,
    closed = false, overdue = false,
  }
  return answer_of_holder('granted')
end

local function ask()
  if holder and holder.stream == me then
    if holder.stop then return keep_stopping() end
    return extend('granted')
  end
  return take_turn()
end

local function register()
  if named == 'detached' then return redis.error_reply('ILLEGAL it is detached') end
  local first, newer = nil, nil
  if digest ~= '' and repeat_for > 0 then
    local asked = recent(read_asked())
    first, newer = judge(asked)
    save_asked(asked)
  end
  if named == 'unknown' then
    if first then return answer('repeated', {first = first, newer = newer}) end
    if holder and holder.overdue and not is_dead(holder.seen) then return answer('overdue') end
    if strategy == 'reject' then
      if is_quarantined then return answer('unsettled') end
      if #waiting > 0 or (holder and now < free_at()) then return answer('busy') end
    elseif strategy == 'enqueue' then
      if (holder or #waiting > 0) and enqueued() >= queue_max then return answer('full') end
    else
      if holder and not holder.stop then stop_holder('superseded') end
      empty_queue('superseded')
    end
    queue_up(next_number())
  end
  return ask()
end

local function may_wait_again()
  if not is_quarantined or strategy == 'reject' then return false end
  if holder and (holder.ticket >= given_ticket or holder.overdue) then return false end
  for _, each in ipairs(waiting) do
    if each.ticket == given_ticket then return false end
    if each.ticket > given_ticket and each.strategy == 'interrupt' then return false end
  end
  return strategy == 'interrupt' or enqueued() < queue_max
end

local function poll()
  if named == 'detached' then return answer('gone') end
  if named == 'unknown' then
    if not may_wait_again() then
      if holder and #waiting == 0 and is_dead(holder.seen) then
        if now < holder.seen + late_keep then drop_holder() else holder = nil end
      end
      return answer('gone')
    end
    last = math.max(last, given_ticket)
    if strategy == 'interrupt' then
      if holder and not holder.stop then stop_holder('superseded') end
      empty_queue('superseded', given_ticket)
    end
    queue_up(given_ticket)
  end
  return ask()
end

local function hold_again()
  last = math.max(last, given_ticket, given_token)
  leave_queue()
  empty_queue('superseded', given_ticket + 1)
  local why = nil
  if closes then why = 'own'
  elseif waiting[1] and waiting[1].strategy == 'interrupt' then why = 'superseded' end
  holder = {
    stream = me, token = given_token, ticket = given_ticket, till = new_until(), seen = now,
    stop = why and now or nil, why = why, closed = closes, overdue = false,
  }
  note_logged()
  return answer_of_holder(why and 'stop' or 'ok')
end

local function renew()
  if named == 'holds' or named == 'holds_stopped' then
    if holder.token ~= given_token then return answer('lost') end
    note_logged()
    if named == 'holds_stopped' then return keep_stopping() end
    if not closes then return extend('ok') end
    holder.seen, holder.stop, holder.why, holder.closed = now, now, 'own', true
    return answer_of_holder('stop')
  end
  if named == 'detached' then
    count_as_detached(me, now)
    return answer('detached')
  end
  if is_quarantined then
    if not holder or holder.token < given_token then return hold_again() end
    if closes and has_room() then
      leave_queue()
      count_as_detached(me, now)
      return answer('detached')
    end
  end
  return answer('lost')
end

local function leave()
  note_answered()
  if named == 'unknown' then return answer('nothing') end
  if named == 'detached' then
    detached[prefix .. me] = 'left'
  elseif named == 'waits' then
    leave_queue()
    tell_next()
  else
    if logged then note_logged() end
    left = #waiting > 0 and me or ''
    holder = nil
    tell_next()
  end
  return answer('done')
end

local function cancel()
  if named == 'holds' then
    stop_holder('cancelled')
  elseif named == 'waits' then
    leave_queue()
    tell(me, 'cancelled')
    tell_next()
  else
    return answer('nothing')
  end
  return answer('done')
end

local policy = (operation == 'register' or operation == 'poll') and evicting()
if policy then
  -- Records of those who hold may be gone: until each has said so again nobody is let in.
  quarantine = now + quarantine_lasts
  save()
  return redis.error_reply('EVICTS ' .. policy)
end
if operation == 'register' then return register()
elseif operation == 'poll' then return poll()
elseif operation == 'renew' then return renew()
elseif operation == 'leave' then return leave()
elseif operation == 'cancel' then return cancel() end
return redis.error_reply('ILLEGAL unknown operation ' .. operation)
