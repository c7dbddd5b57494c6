"""What everything uses: parameters, files, errors, the shell of a stage, devices and processes."""
