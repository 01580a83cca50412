"""`python -m mri_minority_cli` is `mri-minority`."""

from mri_minority_cli.app import main

if __name__ == "__main__":
    main()
