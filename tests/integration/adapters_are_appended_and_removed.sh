#!/bin/bash
# An adapter that is appended, with its views, gives the same files as one that was
# packed with the model; removing it takes its views along, but not those of others.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

cd "$tmp"
generate_model base.gguf F16 3 --lora fr.gguf
generate_model other.gguf F16 3 --rank 4 --lora de.gguf

pack packed.mfs --lora fr=fr.gguf --lora de=de.gguf --merge both=fr@0.5+de --views f16 base.gguf
pack c.mfs base.gguf
before=$(stat -c %s c.mfs)
pack --append --lora fr=fr.gguf --views f16 c.mfs
grown=$(($(stat -c %s c.mfs) - before))
[ "$grown" -le $(($(stat -c %s fr.gguf) * 11 / 10 + 1048576)) ] || fail "$grown bytes more"
pack --append --lora de=de.gguf --merge both=fr@0.5+de --views f16 c.mfs
modelfs-check --quiet c.mfs

note "the same files as from packing at once"
views=(merged/fr.f16.gguf merged/de.f16.gguf merged/both.f16.gguf)
mkdir packed appended
for name in base.gguf adapters/fr.gguf adapters/de.gguf "${views[@]}"; do
	modelfs-extract --quiet -C packed packed.mfs "$name"
	modelfs-extract --quiet -C appended c.mfs "$name"
done
diff -r packed appended || fail "not the same files"
same appended/adapters/fr.gguf fr.gguf
for name in "${views[@]}"; do
	[ "$(stat -c %Y "appended/$name")" = "$(stat -c %Y base.gguf)" ] ||
		fail "$name has another date than its base"
done

note "another view where there are hundreds of merged tensors"
cp c.mfs many.mfs
merges=()
for i in {1..20}; do
	merges+=(--merge "more$i=fr@0.$i+de")
done
pack --append "${merges[@]}" many.mfs
pack --append --merge last=fr@2+de many.mfs
modelfs-check --quiet many.mfs
pack at-once.mfs --lora fr=fr.gguf --lora de=de.gguf --merge more1=fr@0.1+de \
	--merge last=fr@2+de base.gguf
for name in merged/more1.f32.gguf merged/last.q8_0.gguf; do
	modelfs-extract -O many.mfs "$name" | cmp - <(modelfs-extract -O at-once.mfs "$name") ||
		fail "$name: not the same"
done

note "removing"
refused 1 "'merged/both.f16.gguf' depends on it" mkmodelfs --remove=fr c.mfs
refused 1 "'base.gguf' cannot be removed" mkmodelfs --remove=base.gguf c.mfs
refused 1 "another adapter of this name" mkmodelfs --append --lora fr=de.gguf c.mfs
pack --remove=merged/both.f16.gguf --remove=fr c.mfs
modelfs-check --quiet c.mfs
pack --compact c.mfs
modelfs-check --quiet c.mfs
pack less.mfs --lora de=de.gguf --views f16 base.gguf
[ "$(stat -c %s c.mfs)" -le "$(stat -c %s less.mfs)" ] || fail "compacting left something"
rm -r appended/merged/* appended/adapters/fr.gguf
modelfs-extract --quiet -C appended --force c.mfs base.gguf adapters/de.gguf merged/de.f16.gguf
for name in base.gguf adapters/de.gguf merged/de.f16.gguf; do
	same "appended/$name" "packed/$name"
done
