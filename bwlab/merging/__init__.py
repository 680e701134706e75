"""Adapters made from other adapters and from models: conversion, merging, extraction."""
