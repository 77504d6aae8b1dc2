# For login shells.
umask 027
export HISTCONTROL=ignoreboth
export LESS=-R
alias ll='ls -l'
