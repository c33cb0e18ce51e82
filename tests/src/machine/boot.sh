#!/bin/sh
# Becomes the first process of a machine of its own: systemd in new namespaces of every kind but the network's, which is
# the caller's. What is the kernel's and not the machine's is there to read only.
#
# boot.sh ROOT (read only, below) UPPER WORK (what is written) MERGED (mount point), inside the new namespaces.
set -eu
lower=$1 upper=$2 work=$3 root=$4

mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,rw "$root/proc/sys/net"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
: >"$root/dev/console"
cd "$root"
mkdir -p mnt
pivot_root . mnt
# The modules, the clock and the devices are everybody's.
exec chroot . /bin/sh -c '
    umount -l /mnt
    exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-mknod \
        env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=multi-user.target --show-status=no --log-target=journal
'
