package limiter

// The scripts. State that cannot be read (another algorithm's, by the same name)
// counts as none. A state that has expired is a full budget, so that names that
// nobody uses leave nothing behind.

// windowScript keeps "BEGIN:USED".
const windowScript = `LET now = hlc()
LET size = to_int(@window)
LET limit = to_int(@limit)
LET want = to_int(@permits)
LET begun = now / size * size
LET left = begun + size - now
LET used = 0
LET state = EGET @key
IF state != null THEN
  LET field = split(state, ":")
  IF count(field) = 2 && field[0] = to_str(begun) THEN
    LET used = to_int(field[1])
  END
END
IF used + max(want, 1) > limit THEN
  RETURN concat("0:", to_str(left))
END
IF want > 0 THEN
  LET used = used + want
  ESET @key concat(to_str(begun), concat(":", to_str(used))) EX left + 1000 NOREV
END
RETURN concat("1:", to_str(limit - used))`

// slidingScript keeps "SEGMENT:COUNT:COUNT:…", the oldest segment first and
// SEGMENT the number of the newest. Counts move left as time passes.
const slidingScript = `LET now = hlc()
LET length = to_int(@segment)
LET n = to_int(@segments)
LET limit = to_int(@limit)
LET want = to_int(@permits)
LET current = now / length
LET passed = n
LET field = []
LET state = EGET @key
IF state != null THEN
  LET field = split(state, ":")
  IF count(field) = n + 1 THEN
    LET passed = max(current - to_int(field[0]), 0)
  END
END
LET used = 0
FOR i IN 1 + passed..n DO
  LET used = used + to_int(field[i])
END
LET need = max(want, 1)
IF used + need > limit THEN
  LET freed = 0
  FOR i IN 1 + passed..n DO
    LET freed = freed + to_int(field[i])
    IF used - freed + need <= limit THEN
      RETURN concat("0:", to_str((current + i - passed) * length - now))
    END
  END
END
IF want > 0 THEN
  LET out = to_str(current)
  FOR i IN 1 + passed..n + passed DO
    LET c = 0
    IF i <= n THEN
      LET c = to_int(field[i])
    END
    IF i = n + passed THEN
      LET c = c + want
    END
    LET out = concat(out, concat(":", to_str(c)))
  END
  ESET @key out EX (n + 1) * length + 1000 NOREV
END
RETURN concat("1:", to_str(limit - used - want))`

// bucketScript keeps "DEBT:AT": what is missing from the bucket, in microseconds
// of its period, as of a millisecond. A permit costs period / limit, rounded up.
const bucketScript = `LET now = hlc()
LET limit = to_int(@limit)
LET period = to_int(@period_us)
LET want = to_int(@permits)
LET cost = (period + limit - 1) / limit
LET debt = 0
LET state = EGET @key
IF state != null THEN
  LET field = split(state, ":")
  IF count(field) = 2 THEN
    LET debt = max(to_int(field[0]) - max(now - to_int(field[1]), 0) * 1000, 0)
  END
END
LET room = limit * cost - debt - max(want, 1) * cost
IF room < 0 THEN
  RETURN concat("0:", to_str((999 - room) / 1000))
END
IF want > 0 THEN
  LET debt = debt + want * cost
  ESET @key concat(to_str(debt), concat(":", to_str(now))) EX debt / 1000 + 1000 NOREV
END
RETURN concat("1:", to_str((limit * cost - debt) / cost))`

// acquireScript counts the leases under a prefix, and adds one if there is room.
// What this id holds already is replaced and does not count.
const acquireScript = `LET now = hlc()
LET limit = to_int(@limit)
LET want = to_int(@permits)
LET held = 0
LET next = 0
LET leases = EGET BY BUCKET @bucket
LET others = count(leases)
FOR lease IN leases DO
  LET held = held + to_int(lease)
  LET until = expires(lease)
  IF until > 0 && (next = 0 || until < next) THEN
    LET next = until
  END
END
LET own = EGET @lease
IF own != null THEN
  LET held = held - to_int(own)
  LET others = others - 1
END
IF held + want > limit || others >= to_int(@most) THEN
  LET wait = 0
  IF next > 0 THEN
    LET wait = max(next - now, 1)
  END
  RETURN concat("0:", concat(to_str(wait), concat(":", to_str(held))))
END
ESET @lease @permits EX to_int(@ttl) NOREV
RETURN concat("1:", to_str(limit - held - want))`

// renewScript keeps the permits that the lease has.
const renewScript = `LET permits = EGET @lease
ESET @lease permits EX to_int(@ttl) XX NOREV`

const releaseScript = `EDELETE @lease`
