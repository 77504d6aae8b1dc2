#!/bin/bash
# The example's image by hand: what a person writes who needs it once. Every run does everything.
#
#   script.sh image OUT            all of it, in the folder OUT: tree, disk.img and disk.qcow2
#
# The Makefile uses its parts one by one:
#
#   script.sh packages TREE        the packages, in a folder or a tar archive
#   script.sh install TREE NAME    one package more in a tree
#   script.sh customize TREE       the overlay, the script and what the boot loader reads
#   script.sh loader DIR           the boot loader
#   script.sh root TREE FILE       the root file system
#   script.sh esp LOADER FILE      the EFI system partition
#   script.sh assemble LOADER ESP ROOT DISK
#
# What a disk costs at least, once its tree is there:
#
#   script.sh disk TREE DISK       partitions, file systems straight in their places, boot code
#
# It runs as root and takes overlay/ and scripts/tune.sh from the folder JOB. The folder CACHE keeps downloaded
# packages; it lies on the same file system as OUT. QCOW2=no leaves the last step out.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
: "${JOB:?the folder that holds overlay/ and scripts/tune.sh}" "${CACHE:?a folder for downloaded packages}"
: "${MIRROR:=http://deb.debian.org/debian}" "${QCOW2:=yes}"
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C.UTF-8 MTOOLS_SKIP_CHECK=1
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1750000000}
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH
package_list=systemd-sysv,udev,linux-image-cloud-amd64,initramfs-tools,openssh-server

disk_id=5D1A0C6E-0B1F-4C57-9E0B-6B1B5F0F3C00
root_id=5d1a0c6e-0b1f-4c57-9e0b-6b1b5f0f3c01
hash_seed=5d1a0c6e-0b1f-4c57-9e0b-6b1b5f0f3c02
bios_start=2048 bios_sectors=2048
esp_start=4096 esp_sectors=98304
root_start=102400 root_sectors=3039232

packages() {
    local archives=var/cache/apt/archives
    mkdir -p "$CACHE"
    mmdebstrap --quiet --mode=root --variant=minbase --include="$package_list" \
        --skip=download/empty --skip=essential/unlink \
        --setup-hook="mkdir -p \"\$1\"/$archives/partial" \
        --setup-hook="find '$CACHE' -name '*.deb' -exec cp --link -t \"\$1\"/$archives {} +" \
        --customize-hook="find \"\$1\"/$archives -name '*.deb' -exec cp --link --no-clobber -t '$CACHE' {} +" \
        bookworm "$1" "$MIRROR"
}

customize() {
    local tree=$1
    cp -a --no-preserve=ownership "$JOB/overlay/." "$tree"
    cp "$JOB/scripts/tune.sh" "$tree/tmp/tune.sh"
    chroot "$tree" /tmp/tune.sh
    rm "$tree/tmp/tune.sh"
    echo "UUID=$root_id / ext4 defaults 0 1" >"$tree/etc/fstab"
    mkdir -p "$tree/boot/grub"
    cat >"$tree/boot/grub/grub.cfg" <<EOF
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
menuentry Debian {
    search --no-floppy --fs-uuid --set=root $root_id
    linux /vmlinuz root=UUID=$root_id console=ttyS0 rw
    initrd /initrd.img
}
EOF
    rm -rf "$tree"/var/log/{apt/*,dpkg.log,alternatives.log,bootstrap.log} "$tree"/var/cache/ldconfig/aux-cache
}

install_package() {
    local tree=$1 name=$2
    mkdir -p "$tree/var/cache/apt/archives/partial"
    find "$CACHE" -name '*.deb' -exec cp --link -t "$tree/var/cache/apt/archives" {} +
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    cp --remove-destination /etc/resolv.conf "$tree/etc/resolv.conf"
    export DEBIAN_FRONTEND=noninteractive
    chroot "$tree" apt-get -qq update
    chroot "$tree" apt-get -qq --yes --no-install-recommends -o APT::Keep-Downloaded-Packages=true \
        install "$name" >/dev/null 2>&1 </dev/null
    find "$tree/var/cache/apt/archives" -name '*.deb' -exec cp --link --no-clobber -t "$CACHE" {} +
    chroot "$tree" apt-get clean
    rm -rf "$tree"/var/lib/apt/lists/* "$tree/usr/sbin/policy-rc.d"
    if [ -L "$JOB/overlay/etc/resolv.conf" ]; then
        cp -a --remove-destination "$JOB/overlay/etc/resolv.conf" "$tree/etc/resolv.conf"
    fi
}

disk() {
    local tree=$1 disk=$2 work
    work=$(mktemp -d)
    loader "$work"
    rm -f "$disk"
    partition "$disk"
    root "$tree" "$disk" "$root_start"
    esp "$work" "$disk" "$esp_start"
    boot_sectors "$work" "$disk"
    rm -r "$work"
}

partition() {
    truncate --size=1535M "$1"
    sfdisk --quiet "$1" <<EOF
label: gpt
label-id: $disk_id
start=$bios_start, size=$bios_sectors, type=21686148-6449-6E6F-744E-656564454649, uuid=${disk_id%0}1
start=$esp_start, size=$esp_sectors, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=${disk_id%0}2
start=$root_start, size=$root_sectors, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=${disk_id%0}3
EOF
}

# root TREE FILE SECTOR: the root file system in a file, from a sector on
root() {
    mke2fs -q -F -t ext4 -L root -U "$root_id" -d "$1" \
        -E "offset=$(($3 * 512)),hash_seed=$hash_seed,root_owner=0:0,lazy_itable_init=1" \
        "$2" "$((root_sectors / 2))k"
}

# loader DIR: GRUB as a UEFI program, and as the sectors that a BIOS starts
loader() {
    local dir=$1 modules=(part_gpt fat ext2 normal linux search search_fs_uuid configfile serial terminal)
    # shellcheck disable=SC2016  # GRUB's variables
    printf '%s\n' "search.fs_uuid $root_id root" 'set prefix=($root)/boot/grub' 'configfile $prefix/grub.cfg' \
        >"$dir/early.cfg"
    grub-mkimage -O x86_64-efi -p /boot/grub -c "$dir/early.cfg" -o "$dir/BOOTX64.EFI" "${modules[@]}"
    grub-mkimage -O i386-pc -p /boot/grub -c "$dir/early.cfg" -o "$dir/core.img" biosdisk "${modules[@]}"
    # The boot sector has to know where the core starts, and the core's first sector where its rest is.
    cp /usr/lib/grub/i386-pc/boot.img "$dir/boot.img"
    put "$dir/boot.img" 92 '\0\010\0\0\0\0\0\0'    # sector 2048
    put "$dir/boot.img" 102 '\220\220'             # the drive that the firmware names is a hard disk
    put "$dir/core.img" 500 '\001\010\0\0\0\0\0\0' # sector 2049
    touch --date="@$SOURCE_DATE_EPOCH" "$dir/BOOTX64.EFI"
}

# esp LOADER FILE SECTOR: the EFI system partition in a file, from a sector on; the firmware goes by the name
esp() {
    local drive=$2@@$(($3 * 512))
    mkfs.vfat -F 16 -n ESP -i 5D1A0C6E --invariant --offset "$3" "$2" "$((esp_sectors / 2))" >/dev/null 2>&1
    mmd -i "$drive" ::EFI ::EFI/BOOT
    mcopy -m -i "$drive" "$1/BOOTX64.EFI" ::EFI/BOOT/BOOTX64.EFI
}

boot_sectors() {
    dd if="$1/boot.img" of="$2" bs=440 count=1 conv=notrunc status=none
    dd if="$1/core.img" of="$2" bs=512 seek="$bios_start" conv=notrunc status=none
}

put() {
    # shellcheck disable=SC2059  # the format is the data
    printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

case ${1:-} in
    image)
        out=$2
        rm -rf "$out"
        mkdir -p "$out"
        packages "$out/tree"
        customize "$out/tree"
        disk "$out/tree" "$out/disk.img"
        [ "$QCOW2" = no ] || qemu-img convert -f raw -O qcow2 "$out/disk.img" "$out/disk.qcow2"
        ;;
    packages) packages "$2" ;;
    install) install_package "$2" "$3" ;;
    customize) customize "$2" ;;
    disk) disk "$2" "$3" ;;
    loader) loader "$2" ;;
    root)
        truncate --size="$((root_sectors / 2))K" "$3"
        root "$2" "$3" 0
        ;;
    esp)
        truncate --size="$((esp_sectors / 2))K" "$3"
        esp "$2" "$3" 0
        ;;
    assemble)
        partition "$5"
        dd if="$3" of="$5" bs=1M seek=$((esp_start / 2048)) conv=notrunc,sparse status=none
        dd if="$4" of="$5" bs=1M seek=$((root_start / 2048)) conv=notrunc,sparse status=none
        boot_sectors "$2" "$5"
        ;;
    *)
        sed -n '2,/^set/{/^#/p}' "$here/script.sh" >&2
        exit 2
        ;;
esac
