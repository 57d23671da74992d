# Completion for modelfs and its tools. -*- shell-script -*-

_modelfs_values() {
	case $1 in
	--profile) echo 'sd emmc usb sata nvme nand nor' ;;
	--page-size) echo '4K 16K 64K' ;;
	--views) echo 'all none f16 q8_0 f16,q8_0' ;;
	--quantize) echo 'q8_0 q4_0 q4_k q6_k nf4' ;;
	--prune) echo '0.5 2:4' ;;
	--frame-size) echo '16K 64K 128K 256K 1M' ;;
	esac
}

_modelfs_options() {
	case $1 in
	mkmodelfs) echo '--profile= --page-size= --frame-size= --jobs= --codec= --quantize= --prune= --delta= --base= --order= --explain --lora=
		--merge= --premerge= --source= --views= --opaque --no-verify
		--append --remove= --compact --force --dry-run --json --quiet --help --version' ;;
	modelfs-stat) echo '--tensors --chunks --map --map= --watch --watch= --json --help --version' ;;
	modelfs-extract) echo '--directory= --force --stdout --quiet --help --version' ;;
	modelfs-check) echo '--json --quiet --help --version' ;;
	modelfs) echo '-f -d -s -o --help --version' ;;
	esac
}

_modelfs() {
	# shellcheck disable=SC2034 # _init_completion sets them all
	local cur prev words cword split
	_init_completion -s || return

	case $1:$prev in
	*:--profile | *:--page-size | *:--frame-size | *:--views | *:--quantize | *:--prune)
		mapfile -t COMPREPLY < <(compgen -W "$(_modelfs_values "$prev")" -- "$cur")
		return
		;;
	*:--directory | modelfs-extract:-C)
		_filedir -d
		return
		;;
	*:-j | *:--jobs) return ;;
	modelfs:-o)
		mapfile -t COMPREPLY < <(compgen -W 'arena= cache= cache=auto matrices= decoders= engine=uring engine=pool
			engine=pread buffered noprefetch profile= read_ahead_kb= record= replay=
			allow_other auto_unmount debug' \
			-- "$cur")
		[[ ${COMPREPLY-} == *= ]] && compopt -o nospace
		return
		;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_modelfs_options "${1##*/}")" -- "$cur")
		[[ ${COMPREPLY-} == *= ]] && compopt -o nospace
		return
	fi
	_filedir
}

complete -F _modelfs mkmodelfs modelfs modelfs-stat modelfs-extract modelfs-check
