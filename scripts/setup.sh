# Sourced by the other scripts: goes to the root of the repository and activates .venv, made and filled as needed.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -x .venv/bin/pip ]; then  # Debian without python3-venv makes .venv/bin/python, and then fails
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed" >&2; exit 2; }
    python3 -m venv .venv
fi
# Installs only when requirements.txt has changed since the last time that an installation went through.
if ! cmp -s requirements.txt .venv/installed.txt; then
    echo "installing requirements.txt into .venv (a minute or more the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/installed.txt
fi
source .venv/bin/activate
