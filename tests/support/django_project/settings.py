import os

import django

SECRET_KEY = "for tests"
USE_TZ = True
ROOT_URLCONF = "support.django_project.urls"
LOGGING_CONFIG = None
INSTALLED_APPS = [
    "queue_max.contrib.django",
    "support.django_project.shop",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
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
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STATIC_URL = "static/"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", ":memory:"),
    }
}
TASKS = {
    "default": {
        "BACKEND": "queue_max.contrib.django.QueueMaxBackend",
        "QUEUES": ["default", "mail"],
    },
    "any": {"BACKEND": "queue_max.contrib.django.QueueMaxBackend", "QUEUES": []},
}
QUEUE_MAX = {
    "RATE_LIMIT": float("inf"),
    "DURABILITY": "normal",
    "DATA_DIR": os.environ.get("SHOP_DATA", "data"),
}
