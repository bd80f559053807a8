"""From settings to running processes: mpirun, hosts, the job and its end. Neither torch nor MPI is loaded."""
