"""python -m bench.split"""

from bench.split.links import main

raise SystemExit(main())
