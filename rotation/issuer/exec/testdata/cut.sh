# cut.sh POINT FLAG PROGRAM ARGS…: runs a program, and ends as if it, or the broker,
# had been killed at a point: before it began, before its answer, in the middle of it.
# Whatever point it is, FLAG is made once it is reached; "lost" is "answer" while FLAG
# is there, and takes it away.
point=$1 flag=$2
shift 2
case $point in
begin)
	: >"$flag"
	kill -KILL $$
	;;
answer)
	"$@" >/dev/null
	: >"$flag"
	kill -KILL $$
	;;
half)
	answer=$("$@")
	: >"$flag"
	printf '%s' "${answer%?????????}"
	kill -KILL $$
	;;
lost)
	if [ -e "$flag" ]; then
		/bin/rm "$flag"
		"$@" >/dev/null
		kill -KILL $$
	fi
	exec "$@"
	;;
esac
exec "$@"
