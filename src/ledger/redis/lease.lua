-- One process renews its lease of one principal: it says what it keeps and what waits, and is told what it may use.
--
-- KEYS[1]  the hash of the principal. Fields: layout, gate, p:<process>, learnt:<budget>, bucket:<budget>, open:<budget>
-- ARGV[1]  the request, JSON: see `wire.rs`. Times are milliseconds that have passed or are to pass, never times of a client's clock.
-- Returns the reply, JSON.
local LAYOUT = '2'
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local key, ask = KEYS[1], cjson.decode(ARGV[1])

-- 1. What is known.
local fields, procs, gate = redis.call('HGETALL', key), {}, 0
local learnt, bucket, open = {}, {}, {}
local gone = {}
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  local kind, of = string.match(name, '^(%a+):(.*)$')
  if name == 'layout' then
    if value ~= LAYOUT then return redis.error_reply('LAYOUT ' .. value) end
  elseif name == 'gate' then gate = tonumber(value)
  elseif kind == 'p' then
    local proc = cjson.decode(value)
    if proc.e > now then procs[of] = proc else gone[#gone + 1] = name end
  elseif kind == 'learnt' then learnt[of] = cjson.decode(value)
  elseif kind == 'bucket' then bucket[of] = cjson.decode(value)
  elseif kind == 'open' then open[of] = cjson.decode(value)
  end
end
local me = procs[ask.p] or { n = 0, b = {}, h = {} }
if ask.n <= me.n then return redis.error_reply('STALE a later request has come first') end
procs[ask.p] = me
local known = {}
for id in pairs(procs) do known[#known + 1] = id end
table.sort(known)
local changed, wake = { [ask.p] = true }, {}

-- 2. What this process says. A budget: l limit, a what it has (g of it not in a reply yet), d what it would use, q what of it waits
-- by priority, w what it would like.
local pushed = ask.gn == me.n
me.n, me.e, me.ttl = ask.n, now + ask.ttl, ask.ttl
local before, granted = me.b, {}
me.b = {}
for b, say in pairs(ask.b) do
  local old = before[b]
  -- Not what a message has brought already, and not what was meant for a call that is gone.
  local meant = (old and old.g or 0) - (pushed and say.got or 0)
  granted[b] = math.max(0, math.min(meant, say.want - say.keep))
  me.b[b] = {
    k = say.k, l = say.l, a = say.keep + granted[b], g = 0, d = say.want, q = say.q, w = say.like,
    r = say.r, t = say.t, told = old and old.told,
  }
end
-- Whether calls like the one at this head would use more than the process has.
local function lacks(head)
  for b, amount in pairs(head.v) do
    local s = me.b[b]
    if s and s.k ~= 'd' and s.d < s.a + amount then return false end
  end
  return true
end
local waits = {}
for _, head in ipairs(ask.h) do
  local old, covered = nil, next(head.v) ~= nil
  for _, known_head in ipairs(me.h) do
    if known_head.list == head.list then old = known_head end
  end
  for b, amount in pairs(head.v) do
    if (granted[b] or 0) < amount then covered = false end
  end
  if covered then
    for b, amount in pairs(head.v) do granted[b] = granted[b] - amount end
  end
  -- What was granted already is for this call; then the one behind it begins to wait.
  if not covered or lacks(head) then
    -- f since when the call waits, s the same for its turn: one turn after the other, however long the queue is.
    local f = now - head.t
    local s = old and old.c == head.c and old.s or math.max(f, me.last or 0)
    waits[#waits + 1] = { list = head.list, v = head.v, c = head.c, f = f, s = s }
  end
end
me.h = waits
if ask.gate > 0 and now + ask.gate > gate then
  gate = now + ask.gate
  for _, id in ipairs(known) do if id ~= ask.p then wake[id] = true end end
end

-- 3. The limits: the lowest that a living process was configured with, and what refusals have taught.
local limit, kind, spec = {}, {}, {}
for _, id in ipairs(known) do
  for b, s in pairs(procs[id].b) do
    kind[b], spec[b] = s.k, s
    limit[b] = math.min(limit[b] or s.l, s.l)
  end
end
local function sum(b)
  local all = 0
  for _, id in ipairs(known) do
    local s = procs[id].b[b]
    if s then all = all + s.a end
  end
  return all
end
local again
local function look(ms)
  ms = math.max(1, math.ceil(ms))
  if not again or ms < again then again = ms end
end
for b, amount in pairs(ask.ex) do
  local used = limit[b] or 1
  if kind[b] == 'f' then used = sum(b) end
  if kind[b] == 'd' then
    used = 0
    for _ in pairs(open[b] or {}) do used = used + 1 end
  end
  local l = learnt[b] or { l = limit[b] or 1, at = now, level = 0 }
  l.l = math.max(1, math.min(l.l, used) - amount)
  -- A level lasts though single tries leave it: the longer it has lasted, the longer until the next try.
  if math.abs(l.l - l.level) > math.max(1, l.level / 8) then l.level, l.at = l.l, now end
  l.step = 1
  l.try = now + math.min(900000, math.max(200, (now - l.at) / 3))
  learnt[b] = l
  changed['learnt:' .. b] = true
end
for b, l in pairs(learnt) do
  if limit[b] then
    if now >= l.try then
      l.l = l.l + l.step
      l.step = math.min(l.step * 2, 1024)
      l.try = now + 200
      changed['learnt:' .. b] = true
    end
    if l.l >= limit[b] then
      learnt[b] = nil
      gone[#gone + 1] = 'learnt:' .. b
    else
      limit[b] = l.l
      look(l.try - now)
    end
  end
end

-- 4. What is free. A bucket: drawn is what has not come back, never less than what processes hold of it unused.
local free = {}
for b, of in pairs(kind) do
  if of == 'f' then
    free[b] = limit[b] - sum(b)
  elseif of == 'w' then
    local k = bucket[b] or { drawn = 0, at = now }
    local held = sum(b)
    local say = ask.b[b]
    k.drawn = math.max(0, k.drawn - (now - k.at) * spec[b].r / spec[b].t)
    if say then k.drawn = k.drawn - say.back + say.spent end
    k.drawn = math.max(held, k.drawn)
    k.at, k.r, k.t = now, spec[b].r, spec[b].t
    bucket[b] = k
    changed['bucket:' .. b] = true
    free[b] = math.floor(limit[b] - k.drawn + 1e-6)
  end
end
local push = {}
-- To another process by a message, which says what it is given.
local function give(s, b, amount, to)
  s.a = s.a + amount
  if to then
    s.g = s.g + amount
    push[to] = push[to] or {}
    table.insert(push[to], { b, amount })
  end
  free[b] = free[b] - amount
  if kind[b] == 'w' then bucket[b].drawn = bucket[b].drawn + amount end
end

-- 5. The calls at the heads of lists: the more urgent first (c, 0 is interactive), then in turn. One that others have overtaken for
-- too long is among the most urgent, one at a time. What one lacks is kept from those behind it.
local line = {}
for _, id in ipairs(known) do
  local proc = procs[id]
  for _, head in ipairs(proc.h) do
    local aged = head.c > 0 and now - math.max(head.f, proc.m or 0) > ask.overtake
    line[#line + 1] = { id = id, head = head, aged = aged, c = aged and 0 or head.c, s = aged and head.f or head.s }
  end
end
table.sort(line, function(x, y)
  if x.c ~= y.c then return x.c < y.c end
  if x.s ~= y.s then return x.s < y.s end
  return x.id < y.id
end)
local short, lump, reserved, who = {}, {}, {}, {}
-- A process that alone is short has nothing to give to others.
local function lacking(b, id)
  short[b] = true
  who[b] = (who[b] == nil or who[b] == id) and id or 'several'
end
-- More is lent than there is: the limit was lowered, or leases were lost.
for b in pairs(free) do if free[b] < 0 then lacking(b, 'several') end end
for _, at in ipairs(line) do
  local proc, fits = procs[at.id], true
  for b, amount in pairs(at.head.v) do
    local s = proc.b[b]
    if s and free[b] then
      local left = free[b] - (reserved[b] or 0)
      local whole = amount > limit[b] and not reserved[b]
        and (kind[b] == 'f' and sum(b) == 0 or kind[b] == 'w' and bucket[b].drawn < 1e-6)
      if left < amount and not whole then fits = false end
    end
  end
  if fits then
    for b, amount in pairs(at.head.v) do
      if proc.b[b] and free[b] then give(proc.b[b], b, amount, at.id ~= ask.p and at.id) end
    end
    at.head.done, proc.last = true, now
    if at.aged then proc.m = now end
    changed[at.id] = true
    if at.id ~= ask.p then wake[at.id] = true end
  else
    for b, amount in pairs(at.head.v) do
      local s = proc.b[b]
      if s and free[b] then
        if free[b] - (reserved[b] or 0) < amount then
          lacking(b, at.id)
          if s.a == 0 and not lump[b] then lump[b] = { amount = amount, c = at.c + 1 } end
          if kind[b] == 'w' then
            local lack = amount + (reserved[b] or 0) - free[b]
            if amount > limit[b] then lack = bucket[b].drawn end
            look(lack * spec[b].t / spec[b].r)
          end
        end
        reserved[b] = (reserved[b] or 0) + amount
      end
    end
  end
end

-- 6. Fair shares: what each may keep while others are short, and take while nobody is.

-- What each process would use, by priority. What it uses counts with the most urgent call that waits there.
local function wants_of(b)
  local wants = {}
  for _, id in ipairs(known) do
    local s = procs[id].b[b]
    if s then
      local q = { unpack(s.q) }
      for _, at in ipairs(line) do
        if at.id == id and at.aged and not at.head.done then
          local amount = math.min(at.head.v[b] or 0, q[at.head.c + 1])
          q[at.head.c + 1], q[1] = q[at.head.c + 1] - amount, q[1] + amount
        end
      end
      local first = q[1] > 0 and 1 or q[2] > 0 and 2 or q[3] > 0 and 3 or 1
      q[first] = q[first] + s.d - s.q[1] - s.q[2] - s.q[3]
      wants[id] = q
    end
  end
  return wants
end
-- What each of those may have that want something of one priority, if that is less than they want, and what is left if not.
local function level_of(b, wants, c, left)
  local demands, rest = {}, left
  for _, q in pairs(wants) do if q[c] > 0 then demands[#demands + 1] = q[c] end end
  table.sort(demands)
  local n = #demands
  for i, demand in ipairs(demands) do
    local each = rest / (n - i + 1)
    if demand > each then
      local most = math.ceil(each)
      if lump[b] and lump[b].c == c and n > 1 then
        most = math.max(0, math.min(most, math.floor((left - lump[b].amount) / (n - 1))))
      end
      -- And how many of them may have what was rounded up.
      local up = rest - math.floor(each) * (n - i + 1)
      return most, up > 0 and up or n
    end
    rest = rest - demand
  end
  return nil, rest
end
local function fair(b)
  local wants, bound, left = wants_of(b), {}, limit[b]
  for id in pairs(wants) do bound[id] = 0 end
  for c = 1, 3 do
    local level, rest = level_of(b, wants, c, left)
    for _, id in ipairs(known) do
      local q = wants[id]
      if q and not level then
        bound[id] = bound[id] + q[c]
      elseif q then
        local less_urgent = (q[c + 1] or 0) + (q[c + 2] or 0) > 0
        local mine = less_urgent and math.min(level, q[c]) or level
        -- Rounded up for all it would be more than the more urgent calls leave.
        if left < limit[b] and q[c] >= level then
          if rest <= 0 then mine = math.max(0, mine - 1) end
          rest = rest - 1
        end
        bound[id] = bound[id] + mine
      end
    end
    if level then return bound end
    left = rest
  end
  for id in pairs(wants) do bound[id] = limit[b] end
  return bound
end
local share, target = {}, {}
for b, of in pairs(kind) do
  local mine = me.b[b]
  if of ~= 'd' and mine then
    local left = free[b] - (reserved[b] or 0)
    local want = short[b] and mine.d or mine.w
    -- As long as nobody is short a process that is at work has an equal part at hand.
    if of == 'f' and not short[b] and mine.d > 0 then want = math.max(want, math.floor(limit[b] / #known)) end
    if of == 'f' then want = math.min(want, short[b] and fair(b)[ask.p] or limit[b]) else left = math.floor(left / #known) end
    local more = math.min(left, want - mine.a)
    if more > 0 then give(mine, b, more) end
    share[b] = mine.a
  end
end
for _, id in ipairs(known) do
  local rest = {}
  for _, head in ipairs(procs[id].h) do
    if not head.done then
      rest[#rest + 1] = head
    elseif id == ask.p and lacks(head) then
      rest[#rest + 1] = { list = head.list, v = head.v, c = head.c, f = now, s = now }
      for b, amount in pairs(head.v) do
        if free[b] and free[b] - (reserved[b] or 0) < amount then
          lacking(b, ask.p)
          if kind[b] == 'w' then look(amount * spec[b].t / spec[b].r) end
        end
      end
    end
  end
  procs[id].h = rest
end
for b, of in pairs(kind) do
  if of == 'f' then
    local bound = short[b] and fair(b)
    for _, id in ipairs(known) do
      local s = procs[id].b[b]
      if s then
        local told = nil
        if short[b] and who[b] ~= id then told = bound[id] end
        if id == ask.p then
          s.told = told
          target[b] = told
        elseif told and s.a > 0 and (not s.told or told < math.min(s.told, s.a)) then
          s.told = told
          changed[id] = true
          wake[id] = true
        end
      end
    end
  elseif of == 'w' and me.b[b] then
    target[b] = short[b] and who[b] ~= ask.p and 0 or nil
  end
end

-- 7. Values. One that is open costs nobody anything; another one opens if there is room, the processes that wait in turn.
local lent, closed = {}, {}
for b, say in pairs(ask.b) do
  if say.k == 'd' then
    local values = open[b] or {}
    local count = 0
    for v, o in pairs(values) do
      if o.c <= now then values[v] = nil else count = count + 1 end
    end
    for v, unused in pairs(say.use) do
      local o = values[v] or { s = now, c = 0 }
      if not values[v] then count = count + 1 end
      values[v] = o
      if unused < 0 then o.c = math.max(o.c, now + ask.ttl + say.i)
      else o.c = math.max(o.c, now + say.i - unused) end
      if o.x then closed[#closed + 1] = { b, v } end
    end
    if ask.ex[b] then
      for _, v in ipairs(say.refused) do
        if values[v] then values[v] = nil count = count - 1 end
      end
    end
    local mine, before_me = me.b[b], 0
    local function urgency(s) return now - s.wait > ask.overtake and 0 or s.c end
    mine.wait, mine.c = before[b] and before[b].wait or now, say.c
    for _, id in ipairs(known) do
      local s = procs[id].b[b]
      if id ~= ask.p and s and s.wait then
        local theirs, ours = urgency(s), urgency(mine)
        if theirs < ours or theirs == ours and s.wait < mine.wait then before_me = before_me + 1 end
      end
    end
    local waits_still, opened = false, false
    for _, v in ipairs(say.values) do
      local o = values[v]
      if o and not o.x then
        o.c = math.max(o.c, now + ask.ttl + say.i)
        lent[#lent + 1] = { b, v }
      elseif not o and count < limit[b] - before_me then
        values[v] = { s = now, c = now + ask.ttl + say.i }
        count, opened = count + 1, true
        lent[#lent + 1] = { b, v }
      else
        waits_still = true
      end
    end
    -- It has had its turn.
    if opened then mine.wait = now end
    if not waits_still then mine.wait = nil end
    if waits_still then
      local first, oldest
      for v, o in pairs(values) do
        first = math.min(first or o.c, o.c)
        if not o.x and (not oldest or o.s < values[oldest].s) then oldest = v end
      end
      if first then look(math.max(first - now, before_me > 0 and 20 or 1)) end
      if now - mine.wait > ask.overtake and oldest and before_me == 0 then
        local closing = false
        for _, o in pairs(values) do closing = closing or o.x end
        if not closing then
          values[oldest].x = true
          for _, id in ipairs(known) do if id ~= ask.p then wake[id] = true end end
        end
      end
    end
    open[b] = values
    changed['open:' .. b] = true
  end
end

-- 8. Write, wake, reply.
local last = math.max(gate, me.e)
for _, id in ipairs(known) do last = math.max(last, procs[id].e) end
local set = { 'layout', LAYOUT }
if gate > now then set[#set + 1] = 'gate' set[#set + 1] = tostring(gate) else gone[#gone + 1] = 'gate' end
local idle = true
for _, s in pairs(me.b) do
  if s.a > 0 or s.d > 0 or s.k == 'd' then idle = false end
end
if idle and #me.h == 0 then
  gone[#gone + 1] = 'p:' .. ask.p
  changed[ask.p] = nil
end
for _, id in ipairs(known) do
  if changed[id] then set[#set + 1] = 'p:' .. id set[#set + 1] = cjson.encode(procs[id]) end
end
for b, l in pairs(learnt) do
  last = math.max(last, l.try + 900000)
  if changed['learnt:' .. b] then set[#set + 1] = 'learnt:' .. b set[#set + 1] = cjson.encode(l) end
end
for b, k in pairs(bucket) do
  last = math.max(last, now + k.drawn * k.t / k.r)
  if changed['bucket:' .. b] then
    if k.drawn > 0 then set[#set + 1] = 'bucket:' .. b set[#set + 1] = cjson.encode(k)
    else gone[#gone + 1] = 'bucket:' .. b end
  end
end
for b, values in pairs(open) do
  for _, o in pairs(values) do last = math.max(last, o.c) end
  if changed['open:' .. b] then
    if next(values) then set[#set + 1] = 'open:' .. b set[#set + 1] = cjson.encode(values)
    else gone[#gone + 1] = 'open:' .. b end
  end
end
local stays = #set > 2 or #known > 1 or next(learnt)
for b in pairs(bucket) do stays = stays or bucket[b].drawn > 0 end
for b in pairs(open) do stays = stays or next(open[b]) end
if stays then
  -- First what needs memory: without any, nothing is done.
  redis.call('HSET', key, unpack(set))
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  redis.call('PEXPIRE', key, math.ceil(last - now) + 1000)
elseif #fields > 0 then
  redis.call('DEL', key)
end
for id in pairs(wake) do
  local message = ask.name
  if push[id] then message = cjson.encode({ name = ask.name, n = procs[id].n, g = push[id] }) end
  redis.call('PUBLISH', ask.ch .. id, message)
end
local function pairs_of(map)
  local out = {}
  for b, x in pairs(map) do out[#out + 1] = { b, x } end
  return #out > 0 and out or nil
end
return cjson.encode({
  share = pairs_of(share), target = pairs_of(target), lent = #lent > 0 and lent or nil, closed = #closed > 0 and closed or nil,
  gate = gate > now and gate - now or nil, again = again, procs = #known, waits = #me.h,
})
