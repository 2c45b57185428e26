# What zsh offers for $LINE, a word a line, with the completions in $FUNCTIONS.
zmodload zsh/zpty || exit 1
setup='
PS1= PROMPT2= RPS1=
fpath=($FUNCTIONS $fpath)
autoload -Uz compinit
compinit -u -D
bindkey "^I" complete-word
unsetopt list_beep list_ambiguous beep
LISTMAX=10000
zstyle ":completion:*" verbose no
# print the candidates instead of listing them
compadd() {
  [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]] && { builtin compadd "$@"; return }
  local -a found
  builtin compadd -A found "$@"
  (( ${#found} )) && print -rl -- "offered:"${^found}
  builtin compadd "$@"
}
print ready
'
zpty shell zsh -f -i
zpty -w shell "$setup"
zpty -r -m shell line '*ready*' || exit 1
zpty -w shell 'print re""ady2'
zpty -r -m shell line '*ready2*' || exit 1
zpty -w -n shell "$LINE"$'\t'
zpty -w -n shell $'\C-u'
zpty -w shell $'\nprint do""ne'
zpty -r -m shell out '*done*' || exit 1
zpty -d shell
print -r -- "$out" | tr -d '\r' | sed -n 's/.*offered://p' | sed 's/[: ]*$//' | sort -u
