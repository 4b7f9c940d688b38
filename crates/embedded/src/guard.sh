# Runs "$@", and stops it when the other end of standard input is closed. A
# signal's name on a line of standard input is sent to it. Says its process id
# on standard output; everything else goes to standard error, which is the log.

# The owner decides. An ignored signal stays ignored across exec, but Postgres
# and initdb set handlers of their own for these.
trap '' HUP INT PIPE TERM

# What the owner inherited from whoever started it may be a pipe that somebody
# reads to its end.
exec 3<&0 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
"$@" </dev/null >&2 3<&- &
server=$!
(
    while read -r signal; do
        kill -s "$signal" "$server"
    done
    # The owner is gone. Once is not enough: the signal is lost on a process
    # that has no handlers yet. INT is Postgres's fast shutdown, which a client
    # with a full network buffer can hold up; QUIT is the immediate one.
    tries=0
    while [ "$tries" -lt 30 ]; do
        kill -s INT "$server" || exit
        sleep 1
        tries=$((tries + 1))
    done
    kill -s QUIT "$server"
) <&3 >&2 2>/dev/null &
watcher=$!
exec 3<&- </dev/null

echo "$server"
exec >&2
wait "$server"
status=$?
kill -s KILL "$watcher"
exit "$status"
