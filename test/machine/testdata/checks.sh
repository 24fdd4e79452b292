# Runs inside the machine. Each line "ok NAME" or "not ok NAME: WHY" is a result, and
# machine_test.go knows all names.
now() { cut -d' ' -f1 /proc/uptime; } # CLOCK_BOOTTIME
ok() { echo "ok $1"; }
is() { # is NAME GOT WANT
	if [ "$2" = "$3" ]; then ok "$1"; else echo "not ok $1: got '$2', want '$3'"; fi
}
until_() { # until_ SECONDS COMMAND...
	left=$(($1 * 5)); shift
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1)); [ $left -gt 0 ] || return 1
		sleep .2
	done
}
agent() { # agent NAME ARGS...
	name=$1; shift
	kahu agent --data-dir /tmp/$name --allow-volatile --bind 127.0.0.1:7350 --gossip off "$@" >>/tmp/$name.log 2>&1 &
	AGENT=$!
	until_ 60 kahu status --ready || { echo "not ok agent-$name: $(tail -n 3 /tmp/$name.log)"; return; }
}
# pids REGULAR-EXPRESSION prints whose command line matches: this busybox has no pgrep.
pids() {
	for dir in /proc/[0-9]*; do
		tr '\0' ' ' 2>/dev/null <$dir/cmdline | grep -q -e "$1" && [ ${dir#/proc/} != $$ ] && echo ${dir#/proc/}
	done
	true
}
some() { [ -n "$(pids "$1")" ]; }
none() { [ -z "$(pids "$1")" ]; }
gone() { kill $AGENT; wait $AGENT; }

for engine in sqlite rocksdb; do
	agent $engine --storage $engine
	is put-$engine "$(kahu kv set a b 2>&1)" 'revision 0'
	is lock-$engine "$(kahu lock try l --owner me --ttl 1h | cut -d, -f2)" ' fencing token 0'
	gone
	agent $engine --storage $engine
	is get-$engine "$(kahu kv get a)" b
	is held-$engine "$(kahu lock info l -o json | grep -o '"fencing_token":[0-9]*')" '"fencing_token":0'
	kahu seq create s >/dev/null
	is sequence-$engine "$(kahu seq next s)" 1
	gone
done

agent guard --storage sqlite
# Products are not fused into additions: fused this would be 2.77E-17.
printf 'RETURN 0.1 * 3.0 - 0.3' >/tmp/float
is float "$(kahu script run /tmp/float)" 5.551115123125783E-17
token=0
for rung in auto pidns cgroup pgroup; do
	is exec-$rung "$(kahu exec --lock x --contain $rung -- sh -c 'echo $KAHU_FENCING_TOKEN; exit 7'; echo $?)" "$token
7"
	token=$((token + 1))
done

# Everything of a guard is killed at one instant: its tree goes with it, and the lock.
kahu exec --lock tree --contain pidns -- sh -c 'setsid sleep 4321 & exec sleep 4322' &
until_ 20 some '^sleep 4321' && until_ 20 some '^sleep 4322' || echo "not ok tree: its command does not run"
kill -9 $(pids '--lock tree')
until_ 10 none '^sleep 432[12]' && ok tree || echo "not ok tree: $(pids '^sleep 432') live"
until_ 10 sh -c '! kahu lock info tree' && ok free || echo "not ok free: $(kahu lock info tree)"

# A job writes down when it ran, under which token.
cat >/job <<'END'
while :; do echo "$KAHU_FENCING_TOKEN $(cut -d' ' -f1 /proc/uptime)" >>/tmp/job.log; done
END
worker() { kahu exec --lock job --ttl 5s --grace 200ms --wait forever --restart -- sh /job 2>>/tmp/worker.log & }
tokens() { cut -d' ' -f1 /tmp/job.log | sort -nu | tr '\n' ' '; }
worker
until_ 20 test -s /tmp/job.log
worker
real=$(date +%s)
for by in 86400 -86400 3155760000 -3; do
	date -s @$((real + by)) >/dev/null
	sleep 7 # longer than a lease that is not renewed
done
is clock-steps "$(tokens)" '0 '
date -s @$real >/dev/null

before=$(now)
echo 0 >/sys/class/rtc/rtc0/wakealarm
echo +20 >/sys/class/rtc/rtc0/wakealarm
echo freeze >/sys/power/state
slept=$(awk "BEGIN { print (($(now) - $before) > 15) }")
is suspend "$slept" 1
until_ 30 sh -c "awk '{ print \$1 }' /tmp/job.log | grep -qx 1"
is after-suspend "$(tokens)" '0 1 '
awk '$1 == 0 { last = $2 } $1 == 1 && !first { first = $2 } END { print (last < first ? "ok" : "not ok") " no-overlap: token 0 until " last ", 1 from " first }' /tmp/job.log
kill $(pids '--lock job')
until_ 10 none '--lock job' && ok ends || echo "not ok ends: $(pids '--lock job') live"
gone
is log "$(cat /tmp/*.log | grep -c -i -e panic -e level=ERROR)" 0
