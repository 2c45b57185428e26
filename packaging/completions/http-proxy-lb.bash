# bash completion for http-proxy-lb

_http_proxy_lb() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev='' command='' word words
	((COMP_CWORD > 0)) && prev=${COMP_WORDS[COMP_CWORD - 1]}
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in
		demo | status | init | completions)
			command=$word
			break
			;;
		esac
	done
	case $prev in
	-c | --config | --token-file | --admin-token-file)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--log-level)
		mapfile -t COMPREPLY < <(compgen -W 'error warn info debug trace' -- "$cur")
		return
		;;
	--listen | --admin-listen | --upstream | --access-allow)
		COMPREPLY=()
		return
		;;
	--mode)
		mapfile -t COMPREPLY < <(compgen -W 'round_robin best priority' -- "$cur")
		return
		;;
	--admin)
		mapfile -t COMPREPLY < <(compgen -W 'http://127.0.0.1:9090' -- "$cur")
		return
		;;
	esac
	case $command in
	demo | init) words='--log-level --help' ;;
	completions) words='bash zsh fish --log-level --help' ;;
	status) words='--config --admin --token-file --json --connections --live --watch --log-level --help' ;;
	*)
		words='--config --check --lenient --probe --listen --upstream --mode --access-allow --admin-listen'
		words+=' --admin-token-file --log-level --help --version demo status init completions'
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _http_proxy_lb http-proxy-lb
