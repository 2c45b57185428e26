# fish completion for http-proxy-lb

set -l commands demo status
complete -c http-proxy-lb -f
complete -c http-proxy-lb -n "not __fish_seen_subcommand_from $commands" -a demo -d 'Show everything with nothing installed'
complete -c http-proxy-lb -n "not __fish_seen_subcommand_from $commands" -a status -d 'Show the state of a running relay'
complete -c http-proxy-lb -s h -l help -d 'Print help'
complete -c http-proxy-lb -l log-level -x -a 'error warn info debug trace' -d 'How much is logged'
complete -c http-proxy-lb -n 'not __fish_seen_subcommand_from demo' -s c -l config -r -F -d 'The configuration file'
complete -c http-proxy-lb -n "not __fish_seen_subcommand_from $commands" -l check -d 'Check the configuration and start nothing'
complete -c http-proxy-lb -n "not __fish_seen_subcommand_from $commands" -l lenient -d 'With --check, judge as a start or a reload does'
complete -c http-proxy-lb -n "not __fish_seen_subcommand_from $commands" -l probe -d 'With --check, ask every upstream once'
complete -c http-proxy-lb -n "not __fish_seen_subcommand_from $commands" -s V -l version -d 'Print the version'
complete -c http-proxy-lb -n '__fish_seen_subcommand_from status' -l admin -x -a 'http://127.0.0.1:9090' -d 'The admin server to ask'
complete -c http-proxy-lb -n '__fish_seen_subcommand_from status' -l token-file -r -F -d 'A file with the admin token'
complete -c http-proxy-lb -n '__fish_seen_subcommand_from status' -l json -d 'Print what the relay says, for programs'
complete -c http-proxy-lb -n '__fish_seen_subcommand_from status' -l live -d 'Ask only whether it lives'
complete -c http-proxy-lb -n '__fish_seen_subcommand_from status' -l watch -d 'Show it again every two seconds'
