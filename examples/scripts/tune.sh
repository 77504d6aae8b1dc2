#!/bin/sh
# Runs in the tree, after the packages and the overlay: what files alone cannot say. It can run any number of times,
# and what it leaves depends on nothing but the tree and SOURCE_DATE_EPOCH.
set -eu

# Someone to log in as, with a key (etc/ssh/authorized_keys.d/admin): the password is locked.
if ! getent passwd admin >/dev/null; then
    useradd --create-home --shell /bin/bash --comment 'Administrator' --groups adm,systemd-journal admin
fi
# useradd writes today's date.
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
    chage --lastday "$((SOURCE_DATE_EPOCH / 86400))" admin
fi

# What starts. The links depend on the units' [Install] sections alone.
systemctl --quiet enable \
    systemd-networkd.service resolv-conf.path resolv-conf.service \
    ssh-host-keys.service boot-report.service selftest.service

# Each server made of this image makes these for itself when it first boots.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
: >/etc/machine-id

ln -snf /usr/share/zoneinfo/Etc/UTC /etc/localtime
echo Etc/UTC >/etc/timezone

# The tools that edit the user database keep the version before; it is of no use here and holds the day of the build.
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /etc/.pwd.lock /var/cache/ldconfig/aux-cache
