"""A shop that confirms orders in the background; all of its files lie in SHOP_FOLDER."""

import os
from pathlib import Path

import django

BASE_DIR = Path(__file__).parent
FOLDER = Path(os.environ.get("SHOP_FOLDER", BASE_DIR / "var"))

SECRET_KEY = "an example's, and no secret"  # noqa: S105
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"

INSTALLED_APPS = [
    "queue_max.contrib.django",
    "shop",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "shop.sqlite3",
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"}
        if django.VERSION >= (5, 1)
        else {"timeout": 20},
    }
}

QUEUE_MAX = {"DATA_DIR": FOLDER / "queue", "SHARDS": 2, "RATE_LIMIT": float("inf")}
TASKS = {
    "default": {
        "BACKEND": "queue_max.contrib.django.QueueMaxBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"enqueue_on_commit": True, "retry_delay": 1},
    }
}
