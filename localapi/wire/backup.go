package wire

// BackupPath answers with a backup of the whole cluster, as it is taken.
const BackupPath = "/kahu/v1/backup"
