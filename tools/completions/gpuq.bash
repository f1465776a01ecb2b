# SPDX-License-Identifier: MIT
# Completion of gpuq's programs for bash. Options and commands come from the programs themselves
# (--list-options), names of models and operators from the gpuqd that runs.

# _gpuq_command PROGRAM: prints gpuq's command among the words before the one to complete.
_gpuq_command() {
	local i
	[[ ${1##*/} == gpuq ]] || return
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-s | --socket) ((i++)) ;;
		-*) ;;
		*)
			echo "${COMP_WORDS[i]}"
			return
			;;
		esac
	done
}

# _gpuq_models PROGRAM, _gpuq_ops PROGRAM: print names that gpuqd has.
_gpuq_models() {
	"$1" models 2>/dev/null | sed -n '2,$s/ .*//p'
}

# _gpuq_devices PROGRAM: what --device takes; of gpuq's commands the number of one that gpuqd has.
_gpuq_devices() {
	if [[ ${1##*/} == gpuq ]]; then
		"$1" devices 2>/dev/null | sed -n 's/^\([0-9][0-9]*\) .*/\1/p'
	else
		echo auto cpu cuda
	fi
}

_gpuq_ops() {
	"$1" ops 2>/dev/null | sed -n 's/^\([a-z0-9_]*\):.*/\1/p'
}

_gpuq() {
	local program=$1 current=$2 previous=$3 command options words
	command=$(_gpuq_command "$program")
	# shellcheck disable=SC2086 # no command is no word
	options=$("$program" --list-options $command 2>/dev/null)
	words=${options//=/}
	[[ ${program##*/} == gpuq && $previous == -m ]] && previous=--model
	if [[ $'\n'$options$'\n' == *$'\n'"$previous="$'\n'* ]]; then
		case $previous in
		--model) words=$(_gpuq_models "$program") ;;
		--device) words=$(_gpuq_devices "$program") ;;
		*) return ;; # files
		esac
	elif [[ $current != -* ]]; then
		case $command in
		run | ops) words=$(_gpuq_ops "$program") ;;
		unload) words=$(_gpuq_models "$program") ;;
		device) words=restart ;;
		?*) return ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -o default -F _gpuq gpuq gpuqd gpuq-bench gpuq-exporter gpuq-soak gpuq-top
